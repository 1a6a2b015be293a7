/* The sum of squares of an activation divided by `count`, at 2^16. */
static int64_t goodness(int size, int count, const int8_t *activation)
{
    return divided((int64_t)product(size, activation, activation) * 256, count);
}

/* The gradient of an activation from that of its goodness. */
static void goodness_gradient(int size, int count, int32_t error, const int8_t *activation, int32_t *gradient)
{
    for (int i = 0; i < size; i++) {
        gradient[i] = (int32_t)divided((int64_t)error * activation[i] * 256, count);
    }
}
