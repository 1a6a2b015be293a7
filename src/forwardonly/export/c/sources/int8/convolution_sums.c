/* max-pooling of weight * in + bias, not rounded: for a batch norm. */
static void convolution_sums(const convolution_shape *s, const int8_t *weight, const int32_t *bias, const int8_t *in,
                             int32_t *sums, unsigned char *winner)
{
    const int pixels = s->out_height * s->out_width;
    for (int at = 0; at < s->out_channels * pixels; at++) {
        const int64_t more = bias == NULL ? 0 : shifted(bias[at / pixels], 8);
        sums[at] = (int32_t)(pooled_at(s, weight, in, at, winner) + more);
    }
}
