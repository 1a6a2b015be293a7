/* xorshift32 (Marsaglia 2003): the next random number, from 1 to 2^32 - 1. */
static uint32_t random_state = FO_SEED;

static uint32_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}
