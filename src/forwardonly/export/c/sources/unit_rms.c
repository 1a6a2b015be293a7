/* Divides an example's features by their root mean square, and multiplies them by `length`. */
static void unit_rms(int count, float length, float *values)
{
    const float factor = length / sqrtf(mean_square(count, values) + 1e-6f);
    for (int i = 0; i < count; i++) {
        values[i] *= factor;
    }
}
