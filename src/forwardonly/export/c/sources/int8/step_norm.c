/* The largest of `largest` and the sizes of steps / 2^bits. */
static int64_t largest_step(int count, int bits, const int32_t *steps, int64_t largest)
{
    for (int i = 0; i < count; i++) {
        const int64_t step = shifted(steps[i], bits), size = step < 0 ? -step : step;
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* The sum of the squares of steps / 2^bits. */
static int64_t squared_steps(int count, int bits, const int32_t *steps)
{
    int64_t sum = 0;
    for (int i = 0; i < count; i++) {
        const int64_t step = shifted(steps[i], bits);
        sum += step * step;
    }
    return sum;
}
