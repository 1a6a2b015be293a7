/* The class that a channel belongs to. */
static int group_of(int channel, int channels)
{
    return channel * FO_CLASSES / channels;
}

/* How many channels a class has. */
static int group_size(int group, int channels)
{
    int size = 0;
    for (int c = 0; c < channels; c++) {
        size += group_of(c, channels) == group;
    }
    return size;
}

/* Each class's mean activation, or mean square, over its channels and space, at 2^12. */
static void group_scores(int channels, int pixels, int squared, const int8_t *activation, int64_t *scores)
{
    for (int group = 0; group < FO_CLASSES; group++) {
        int64_t sum = 0;
        for (int i = 0; i < channels * pixels; i++) {
            if (group_of(i / pixels, channels) == group) {
                sum += squared ? activation[i] * activation[i] : activation[i] * 16;
            }
        }
        scores[group] = divided(sum * 16, group_size(group, channels) * pixels);
    }
}
