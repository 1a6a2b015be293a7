/* weight x + bias, not rounded: for a batch norm. */
static void linear_sums(int inputs, int outputs, const int8_t *weight, const int32_t *bias, const int8_t *x,
                        int32_t *sums)
{
    for (int o = 0; o < outputs; o++) {
        const int64_t more = bias == NULL ? 0 : shifted(bias[o], 8);
        sums[o] = (int32_t)(product(inputs, weight + o * inputs, x) + more);
    }
}
