/* The learning rate at 2^16: at most {FO_LARGEST_RATE}, and 0 where it is negative or NaN. */
static int64_t whole_rate(void)
{
    const float rate = fo_learning_rate < {FO_LARGEST_RATE}.0f ? fo_learning_rate : {FO_LARGEST_RATE}.0f;
    return fo_learning_rate > 0.0f ? (int64_t)(rate * 65536.0f + 0.5f) : 0;
}
