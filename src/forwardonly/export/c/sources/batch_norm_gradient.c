/* The gradient through a batch norm in training, in place; adds share times that of scale and shift. */
static void batch_norm_gradient(int rows, int channels, int pixels, float share, const float *scale,
                                const float *standard, const float *inverse, float *gradient, float *to_scale,
                                float *to_shift)
{
    const int count = rows * pixels;
    for (int c = 0; c < channels; c++) {
        float sum = 0.0f, along = 0.0f;
        for (int i = 0; i < count; i++) {
            const int at = (i / pixels * channels + c) * pixels + i % pixels;
            sum += gradient[at];
            along += gradient[at] * standard[at];
        }
        for (int i = 0; i < count; i++) {
            const int at = (i / pixels * channels + c) * pixels + i % pixels;
            gradient[at] = scale[c] * inverse[c] * (gradient[at] - (sum + standard[at] * along) / (float)count);
        }
        to_scale[c] += share * along; /* the scale itself was read above */
        to_shift[c] += share * sum;
    }
}
