/* Each class's channels of an example with zero mean and unit deviation, in place. */
static void group_norm(int channels, int pixels, int8_t *values)
{
    for (int group = 0; group < FO_CLASSES; group++) {
        standardise(group_size(group, channels) * pixels, values + group_start(group, channels) * pixels);
    }
}
