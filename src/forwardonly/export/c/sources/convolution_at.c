/* The value of one output channel at row y and column x of the unpooled map. */
static {SUM} convolution_at(const convolution_shape *s, const {NUMBER} *weight, const {NUMBER} *in, int channel,
                            int y, int x)
{
    const int top = y * s->stride_height - s->padding_height, left = x * s->stride_width - s->padding_width;
    const int from_y = kernel_first(top), to_y = kernel_last(top, s->kernel_height, s->in_height);
    const int from_x = kernel_first(left), to_x = kernel_last(left, s->kernel_width, s->in_width);
    const int channels = s->depthwise ? 1 : s->in_channels;
    const int pixels = s->in_height * s->in_width;
    const {NUMBER} *own = weight + channel * fan_in(s);
    const {NUMBER} *plane = s->depthwise ? in + channel * pixels : in;
    {SUM} sum = 0;
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
