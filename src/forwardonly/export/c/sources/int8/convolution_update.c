/* A step down the gradient of a weight: rate sums / 2^bits, where `sums` has room for one fan-in. */
static void convolution_update(const convolution_shape *s, int64_t rate, int bits, const int32_t *gradient,
                               const int8_t *in, const unsigned char *winner, int32_t *sums,
                               int8_t *weight, int8_t *error)
{
    const int pixels = s->in_height * s->in_width, out_pixels = s->out_height * s->out_width;
    const int channels = s->depthwise ? 1 : s->in_channels;
    for (int c = 0; c < s->out_channels; c++) {
        const int8_t *plane = in + (s->depthwise ? c * pixels : 0);
        memset(sums, 0, (size_t)fan_in(s) * sizeof(sums[0]));
        for (int i = 0; i < out_pixels; i++) {
            const int at = c * out_pixels + i;
            const int32_t own = gradient[at];
            if (own == 0) {
                continue; /* more than half of them are, behind a ReLU */
            }
            const int place = winner == NULL ? 0 : winner[at];
            const int y = i / s->out_width * s->pool_height + place / s->pool_width;
            const int x = i % s->out_width * s->pool_width + place % s->pool_width;
            const int top = y * s->stride_height - s->padding_height;
            const int left = x * s->stride_width - s->padding_width;
            const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
            const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
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
        for (int i = 0; i < fan_in(s); i++) {
            const int at = c * fan_in(s) + i;
            move(weight + at, error + at, shifted(rate * sums[i], bits));
        }
    }
}
