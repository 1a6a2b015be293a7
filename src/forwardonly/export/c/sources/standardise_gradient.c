/* The gradient through `standardise`, in place. */
static void standardise_gradient(int count, float inverse, const float *standard, float *gradient)
{
    float sum = 0.0f, along = 0.0f;
    for (int i = 0; i < count; i++) {
        sum += gradient[i];
        along += gradient[i] * standard[i];
    }
    for (int i = 0; i < count; i++) {
        gradient[i] = inverse * (gradient[i] - (sum + standard[i] * along) / (float)count);
    }
}
