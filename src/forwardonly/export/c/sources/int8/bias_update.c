/* A step down the gradient of biases, which is summed over `pixels` each: rate gradient / 2^bits. */
static void bias_update(int count, int pixels, int64_t rate, int bits, const int32_t *gradient, int32_t *bias)
{
    for (int c = 0; c < count; c++) {
        int64_t sum = 0;
        for (int i = 0; i < pixels; i++) {
            sum += gradient[c * pixels + i];
        }
        gather(bias + c, -shifted(rate * sum, bits));
    }
}
