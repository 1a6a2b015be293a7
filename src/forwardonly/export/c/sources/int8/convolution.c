/* out = (max-pooling of weight * in + bias) / 2^bits; bias may be NULL, and `winner` is as above. */
static void convolution(const convolution_shape *s, int bits, int relu, const int8_t *weight, const int32_t *bias,
                        const int8_t *in, int8_t *out, unsigned char *winner)
{
    const int pixels = s->out_height * s->out_width;
    for (int at = 0; at < s->out_channels * pixels; at++) {
        int64_t sum = pooled_at(s, weight, in, at, winner);
        if (bias != NULL) {
            sum += shifted(bias[at / pixels], 8);
        }
        out[at] = clamped(shifted(sum, bits));
        if (relu && out[at] < 0) {
            out[at] = 0;
        }
    }
}
