/* Doubles errors so often that the largest has at least 14 bits; how often is returned. */
static int raised(int count, int32_t *errors)
{
    int32_t largest = 0;
    int up = 0;
    for (int i = 0; i < count; i++) {
        const int32_t size = errors[i] < 0 ? -errors[i] : errors[i];
        largest = size > largest ? size : largest;
    }
    for (; largest > 0 && largest < 16384; largest *= 2) {
        up++;
    }
    for (int i = 0; i < count; i++) {
        errors[i] *= 1 << up;
    }
    return up;
}
