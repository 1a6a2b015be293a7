/* The value of one output channel at row y and column x of the unpooled map. */
static float convolution_at(const convolution_shape *s, const float *weight, const float *in, int channel, int y, int x)
{
    const int top = y * s->stride_height - s->padding_height, left = x * s->stride_width - s->padding_width;
    const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
    const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
    const int channels = s->depthwise ? 1 : s->in_channels;
    const int pixels = s->in_height * s->in_width;
    const float *own = weight + channel * fan_in(s);
    const float *plane = s->depthwise ? in + channel * pixels : in;
    float sum = 0.0f;
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

/* out = max-pooling of (weight * in + bias) for each row; `winner` notes which value of a window was the
 * largest; NULL without pooling. */
static void convolution(const convolution_shape *s, int rows, const float *weight, const float *bias, const float *in,
                        float *out, unsigned char *winner)
{
    const int in_size = s->in_channels * s->in_height * s->in_width;
    int at = 0;
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < s->out_channels; c++) {
            for (int y = 0; y < s->out_height; y++) {
                for (int x = 0; x < s->out_width; x++, at++) {
                    for (int p = 0; p < s->pool_height * s->pool_width; p++) {
                        const int py = y * s->pool_height + p / s->pool_width;
                        const int px = x * s->pool_width + p % s->pool_width;
                        const float value = convolution_at(s, weight, in + r * in_size, c, py, px);
                        if (p == 0 || value > out[at]) {
                            out[at] = value;
                            if (winner != NULL) {
                                winner[at] = (unsigned char)p;
                            }
                        }
                    }
                    if (bias != NULL) {
                        out[at] += bias[c];
                    }
                }
            }
        }
    }
}
