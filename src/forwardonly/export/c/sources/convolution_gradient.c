/* Adds share times the gradient of weight and bias, which may be NULL. `sums` has room for one fan-in. */
static void convolution_gradient(const convolution_shape *s, int rows, float share, const float *gradient,
                                 const float *in, const unsigned char *winner, float *sums, float *to_weight,
                                 float *to_bias)
{
    const int in_size = s->in_channels * s->in_height * s->in_width;
    const int pixels = s->in_height * s->in_width, out_pixels = s->out_height * s->out_width;
    const int channels = s->depthwise ? 1 : s->in_channels;
    for (int c = 0; c < s->out_channels; c++) {
        float total = 0.0f;
        memset(sums, 0, (size_t)fan_in(s) * sizeof(float));
        for (int r = 0; r < rows; r++) {
            const float *plane = in + r * in_size + (s->depthwise ? c * pixels : 0);
            for (int i = 0; i < out_pixels; i++) {
                const int at = (r * s->out_channels + c) * out_pixels + i;
                const float own = gradient[at];
                if (own == 0.0f) {
                    continue; /* more than half of them are, behind a ReLU */
                }
                const int place = winner == NULL ? 0 : winner[at];
                const int y = i / s->out_width * s->pool_height + place / s->pool_width;
                const int x = i % s->out_width * s->pool_width + place % s->pool_width;
                const int top = y * s->stride_height - s->padding_height;
                const int left = x * s->stride_width - s->padding_width;
                const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
                const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
                total += own;
                for (int ic = 0; ic < channels; ic++) {
                    for (int ky = from_y; ky < to_y; ky++) {
                        const int w = (ic * s->kernel_height + ky) * s->kernel_width;
                        const int v = ic * pixels + (top + ky) * s->in_width + left;
                        for (int kx = from_x; kx < to_x; kx++) {
                            sums[w + kx] += own * plane[v + kx];
                        }
                    }
                }
            }
        }
        for (int i = 0; i < fan_in(s); i++) {
            to_weight[c * fan_in(s) + i] += share * sums[i];
        }
        if (to_bias != NULL) {
            to_bias[c] += share * total;
        }
    }
}
