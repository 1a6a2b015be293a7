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
