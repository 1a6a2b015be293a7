/* Each class's channels of an example with zero mean and unit deviation, in place. */
static void group_norm(int channels, int pixels, float *values)
{
    int first = 0;
    for (int group = 0; group < FO_CLASSES; group++) {
        const int size = group_size(group, channels);
        (void)standardise(size * pixels, values + first * pixels);
        first += size;
    }
}
