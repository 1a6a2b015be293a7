/* exp(-t / 64) is whole[t / 64] part[t % 64], both of 2^15. */
static const uint32_t whole[16] = {FO_WHOLE};
static const uint32_t part[64] = {FO_PART};

/* exp(-t / 64) at 2^15. */
static int32_t exponential(int64_t t)
{
    return t >= 1024 ? 0 : (int32_t)(whole[t >> 6] * part[t & 63] >> 15);
}
