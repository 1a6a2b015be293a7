/* value / 2^bits, rounded to the nearest, halves up. */
static int64_t shifted(int64_t value, int bits)
{
    if (bits > 62) {
        return 0;
    }
    return bits > 0 ? (value + ((int64_t)1 << (bits - 1))) >> bits : value * ((int64_t)1 << -bits);
}

/* A value as an int8 holds it. */
static int8_t clamped(int64_t value)
{
    return (int8_t)(value > 127 ? 127 : value < -127 ? -127 : value);
}
