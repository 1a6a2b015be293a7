/* The whole part of a square root, bit by bit. */
static int64_t root(int64_t value)
{
    int64_t found = 0;
    for (int64_t bit = (int64_t)1 << 30; bit > 0; bit >>= 1) {
        if ((found + bit) * (found + bit) <= value) {
            found += bit;
        }
    }
    return found;
}
