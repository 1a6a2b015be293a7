/* A step down the gradient of a weight: rate gradient x / 2^bits. */
static void linear_update(int inputs, int outputs, int64_t rate, int bits, const int32_t *gradient, const int8_t *x,
                          int8_t *weight, int8_t *error)
{
    for (int o = 0; o < outputs; o++) {
        const int64_t own = rate * gradient[o];
        for (int i = 0; i < inputs && own != 0; i++) {
            const int at = o * inputs + i;
            move(weight + at, error + at, shifted(own * x[i], bits));
        }
    }
}
