/* Values with zero mean and unit deviation, in place. */
static void standardise(int count, int8_t *values)
{
    int64_t sum = 0;
    for (int i = 0; i < count; i++) {
        sum += values[i];
    }
    const int64_t spread = root(count * (int64_t)product(count, values, values) - sum * sum);
    const int64_t factor = ((int64_t)1 << 20) / (spread > 0 ? spread : 1);
    for (int i = 0; i < count; i++) {
        values[i] = clamped(shifted((values[i] * count - sum) * factor, 16));
    }
}
