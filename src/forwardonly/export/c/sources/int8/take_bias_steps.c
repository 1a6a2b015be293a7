/* Takes the step of a batch off biases: share / 2^30 of its sums. */
static void take_bias_steps(int count, int64_t share, const int32_t *sums, int32_t *bias)
{
    for (int i = 0; i < count; i++) {
        gather(bias + i, -shifted(sums[i] * share, 30));
    }
}
