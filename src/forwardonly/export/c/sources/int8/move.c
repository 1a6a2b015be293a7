/* Takes a step, in 256ths of a unit, off a weight: what does not move the weight stays in its error. */
static void move(int8_t *weight, int8_t *error, int64_t step)
{
    const int64_t fine = *error - step, whole = (fine + 128) >> 8;
    *weight = clamped(*weight + whole);
    *error = (int8_t)(fine - 256 * whole);
}
