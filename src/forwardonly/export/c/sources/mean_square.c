/* The mean of the squares of an example's features. */
static float mean_square(int count, const float *values)
{
    float sum = 0.0f;
    for (int i = 0; i < count; i++) {
        sum += values[i] * values[i];
    }
    return sum / (float)count;
}
