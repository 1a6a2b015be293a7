/* Values with zero mean and unit deviation; 1 / deviation is returned. */
static float standardise(int count, float *values)
{
    float sum = 0.0f, squares = 0.0f;
    for (int i = 0; i < count; i++) {
        sum += values[i];
    }
    for (int i = 0; i < count; i++) {
        values[i] -= sum / (float)count;
        squares += values[i] * values[i];
    }
    const float inverse = 1.0f / sqrtf(squares / (float)count + 1e-5f);
    for (int i = 0; i < count; i++) {
        values[i] *= inverse;
    }
    return inverse;
}
