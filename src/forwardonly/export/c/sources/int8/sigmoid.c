/* 1 / (1 + exp(-z)) at 2^15, of a z that is 64 times too large and has `bits` behind the point. */
static int32_t sigmoid(int64_t z, int bits)
{
    const uint32_t power = (uint32_t)exponential((z < 0 ? -z : z) >> bits);
    return (int32_t)(((z < 0 ? power : 32768) << 15) / (32768 + power));
}
