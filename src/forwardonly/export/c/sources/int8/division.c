/* value / by for by > 0, rounded to the nearest, halves up. */
static int64_t divided(int64_t value, int64_t by)
{
    const int64_t twice = 2 * value + by;
    return twice / (2 * by) - (twice % (2 * by) < 0);
}
