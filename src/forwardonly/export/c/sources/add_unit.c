/* Adds an example's features, of unit length, to a sum. */
static void add_unit(int size, const float *features, float *sum)
{
    float square = 0.0f;
    for (int i = 0; i < size; i++) {
        square += features[i] * features[i];
    }
    for (int i = 0; i < size && square > 0.0f; i++) {
        sum[i] += features[i] / sqrtf(square);
    }
}
