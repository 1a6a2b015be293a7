/* 16 times the length of a vector, but at least 1. */
static int64_t length_of(int size, const int8_t *values)
{
    const int64_t length = root(256 * (int64_t)product(size, values, values));
    return length > 0 ? length : 1;
}

/* An element of a vector of that length, divided by it, at 2^13. */
static int64_t unit(int8_t value, int64_t length)
{
    return shifted(value * (((int64_t)1 << 25) / length), 8);
}

/* The cosine of the features with each class's prototype, at 2^13. */
static void cosines(int size, const int8_t *prototypes, const int8_t *features, int64_t *cosine)
{
    const int64_t length = length_of(size, features);
    for (int c = 0; c < FO_CLASSES; c++) {
        const int8_t *own = prototypes + c * size;
        const int64_t together = (int64_t)product(size, own, features) * ((int64_t)1 << 21);
        cosine[c] = divided(together, length * length_of(size, own));
    }
}
