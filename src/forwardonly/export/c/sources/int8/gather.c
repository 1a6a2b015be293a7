/* Adds a step to a bias or to the sum of a batch, which saturates. */
static void gather(int32_t *sum, int64_t step)
{
    const int64_t to = *sum + step;
    *sum = (int32_t)(to > INT32_MAX ? INT32_MAX : to < -INT32_MAX ? -INT32_MAX : to);
}
