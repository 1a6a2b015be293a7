/* The value of one output channel at row y and column x of the unpooled map. */
static int32_t convolution_at(const convolution_shape *s, const int8_t *weight, const int8_t *in, int channel, int y,
                              int x)
{
    const int top = y * s->stride_height - s->padding_height, left = x * s->stride_width - s->padding_width;
    const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
    const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
    const int channels = s->depthwise ? 1 : s->in_channels;
    const int pixels = s->in_height * s->in_width;
    const int8_t *own = weight + channel * fan_in(s);
    const int8_t *plane = s->depthwise ? in + channel * pixels : in;
    int32_t sum = 0;
    for (int c = 0; c < channels; c++) {
        for (int ky = from_y; ky < to_y; ky++) {
            const int w = (c * s->kernel_height + ky) * s->kernel_width;
            const int v = c * pixels + (top + ky) * s->in_width + left;
            for (int kx = from_x; kx < to_x; kx++) {
                sum += own[w + kx] * plane[v + kx];
            }
        }
    }
    return sum;
}

/* The largest value of the pooling window of output `at`; `winner` notes which of its values that is; NULL without
 * pooling. */
static int32_t pooled_at(const convolution_shape *s, const int8_t *weight, const int8_t *in, int at,
                         unsigned char *winner)
{
    const int pixels = s->out_height * s->out_width;
    const int c = at / pixels, y = at % pixels / s->out_width, x = at % s->out_width;
    int32_t largest = 0;
    for (int p = 0; p < s->pool_height * s->pool_width; p++) {
        const int py = y * s->pool_height + p / s->pool_width, px = x * s->pool_width + p % s->pool_width;
        const int32_t value = convolution_at(s, weight, in, c, py, px);
        if (p == 0 || value > largest) {
            largest = value;
            if (winner != NULL) {
                winner[at] = (unsigned char)p;
            }
        }
    }
    return largest;
}
