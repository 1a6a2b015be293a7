/* The sum of products. */
static int32_t product(int count, const int8_t *a, const int8_t *b)
{
    int32_t sum = 0;
    for (int i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}
