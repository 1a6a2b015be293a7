/* Each class's mean activation, or mean square, over its channels and space, at 2^12. */
static void group_scores(int channels, int pixels, int squared, const int8_t *activation, int64_t *scores)
{
    for (int group = 0; group < FO_CLASSES; group++) {
        int64_t sum = 0;
        for (int i = group_start(group, channels) * pixels; i < group_start(group + 1, channels) * pixels; i++) {
            sum += squared ? activation[i] * activation[i] : activation[i] * 16;
        }
        scores[group] = divided(sum * 16, group_size(group, channels) * pixels);
    }
}
