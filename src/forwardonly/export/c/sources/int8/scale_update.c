/* A step down the gradient of a batch norm's scale: rate (the sum of gradient standard over `pixels`) / 2^bits. */
static void scale_update(int channels, int pixels, int64_t rate, int bits, const int32_t *gradient,
                         const int8_t *standard, int8_t *weight, int8_t *error)
{
    for (int at = 0; at < channels; at++) {
        int64_t sum = 0;
        for (int i = at * pixels; i < (at + 1) * pixels; i++) {
            sum += gradient[i] * standard[i];
        }
        move(weight + at, error + at, shifted(rate * sum, bits));
    }
}
