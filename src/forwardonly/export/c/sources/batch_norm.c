/* Batch norm of `values` (rows, channels, pixels). In training by the batch's own statistics, which also move the
 * running ones, else by the running ones. `standard` receives the values before scale and shift, `inverse` the
 * 1 / deviation of each channel. */
static void batch_norm(int rows, int channels, int pixels, int training, float epsilon, float momentum,
                       const float *scale, const float *shift, float *running_mean, float *running_variance,
                       float *values, float *standard, float *inverse)
{
    const int count = rows * pixels;
    for (int c = 0; c < channels; c++) {
        float mean = running_mean[c], variance = running_variance[c];
        if (training) {
            float sum = 0.0f, squares = 0.0f;
            for (int i = 0; i < count; i++) {
                sum += values[(i / pixels * channels + c) * pixels + i % pixels];
            }
            mean = sum / (float)count;
            for (int i = 0; i < count; i++) {
                const float centred = values[(i / pixels * channels + c) * pixels + i % pixels] - mean;
                squares += centred * centred;
            }
            variance = squares / (float)count;
            running_mean[c] += momentum * (mean - running_mean[c]);
            running_variance[c] += momentum * (squares / (float)(count - 1) - running_variance[c]);
        }
        inverse[c] = 1.0f / sqrtf(variance + epsilon);
        for (int i = 0; i < count; i++) {
            const int at = (i / pixels * channels + c) * pixels + i % pixels;
            standard[at] = (values[at] - mean) * inverse[c];
            values[at] = scale[c] * standard[at] + shift[c];
        }
    }
}
