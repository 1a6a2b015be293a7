/* Takes the step of a batch off weights: share / 2^30 of its sums, which are in 65536ths of a weight's unit. */
static void take_steps(int count, int64_t share, const int32_t *sums, int8_t *weight, int8_t *error)
{
    for (int i = 0; i < count; i++) {
        move(weight + i, error + i, shifted(sums[i] * share, 38));
    }
}
