/* out = (weight x + bias) / 2^bits; bias may be NULL. */
static void linear(int inputs, int outputs, int bits, int relu, const int8_t *weight, const int32_t *bias,
                   const int8_t *x, int8_t *out)
{
    for (int o = 0; o < outputs; o++) {
        int64_t sum = product(inputs, weight + o * inputs, x);
        if (bias != NULL) {
            sum += shifted(bias[o], 8);
        }
        out[o] = clamped(shifted(sum, bits));
        if (relu && out[o] < 0) {
            out[o] = 0;
        }
    }
}
