/* Shifts a gradient so that its largest value has 11 bits; by how many bits it was shifted down is returned. */
static int fitted(int count, int32_t *gradient)
{
    int64_t largest = 0;
    int down = 0;
    for (int i = 0; i < count; i++) {
        const int64_t size = gradient[i] < 0 ? -(int64_t)gradient[i] : gradient[i];
        largest = size > largest ? size : largest;
    }
    for (; largest >= 2048; largest >>= 1) {
        down++;
    }
    for (; largest > 0 && largest < 1024; largest *= 2) {
        down--;
    }
    for (int i = 0; i < count; i++) {
        gradient[i] = (int32_t)shifted(gradient[i], down);
    }
    return down;
}
