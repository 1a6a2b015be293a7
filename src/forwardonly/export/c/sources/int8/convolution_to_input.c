/* The gradient of the input. */
static void convolution_to_input(const convolution_shape *s, const int8_t *weight, const int32_t *gradient,
                                 const unsigned char *winner, int32_t *to_in)
{
    const int in_size = s->in_channels * s->in_height * s->in_width;
    const int pixels = s->in_height * s->in_width, out_pixels = s->out_height * s->out_width;
    const int channels = s->depthwise ? 1 : s->in_channels;
    memset(to_in, 0, (size_t)in_size * sizeof(to_in[0]));
    for (int at = 0; at < s->out_channels * out_pixels; at++) {
        const int32_t own = gradient[at];
        if (own == 0) {
            continue;
        }
        const int c = at / out_pixels, i = at % out_pixels;
        int32_t *plane = to_in + (s->depthwise ? c * pixels : 0);
        const int place = winner == NULL ? 0 : winner[at];
        const int y = i / s->out_width * s->pool_height + place / s->pool_width;
        const int x = i % s->out_width * s->pool_width + place % s->pool_width;
        const int top = y * s->stride_height - s->padding_height, left = x * s->stride_width - s->padding_width;
        const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
        const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
        for (int ic = 0; ic < channels; ic++) {
            for (int ky = from_y; ky < to_y; ky++) {
                const int w = c * fan_in(s) + (ic * s->kernel_height + ky) * s->kernel_width;
                const int v = ic * pixels + (top + ky) * s->in_width + left;
                for (int kx = from_x; kx < to_x; kx++) {
                    plane[v + kx] += own * weight[w + kx];
                }
            }
        }
    }
}
