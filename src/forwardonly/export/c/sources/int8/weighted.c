/* Multiplies an example's gradient by its rate (at 2^24), both of 11 bits; the bits behind the point of the product, of
 * 11 bits too, are returned. */
static int weighted(int count, int bits, int64_t rate, int32_t *gradient)
{
    int down = 0, zero = 1;
    while (rate >> down >= 2048) {
        down++;
    }
    bits -= fitted(count, gradient);
    for (int i = 0; i < count; i++) {
        gradient[i] *= (int32_t)shifted(rate, down);
        zero = zero && gradient[i] == 0;
    }
    bits += 24 - down - fitted(count, gradient);
    return zero ? 127 : bits; /* more than any other: zero is not to decide over the exponent that all share */
}

/* Brings the gradients of all examples to the fewest bits behind the point, which are returned. */
static int aligned(int rows, int count, const int *bits, int32_t *gradients)
{
    int fewest = bits[0];
    for (int r = 1; r < rows; r++) {
        fewest = bits[r] < fewest ? bits[r] : fewest;
    }
    for (int i = 0; i < rows * count; i++) {
        gradients[i] = (int32_t)shifted(gradients[i], bits[i / count] - fewest);
    }
    return fewest;
}
