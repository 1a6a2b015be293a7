/* Each class's mean activation, or mean square, over its channels and space, times `scale`. */
static void group_scores(int channels, int pixels, int squared, float scale, const float *activation, float *scores)
{
    memset(scores, 0, FO_CLASSES * sizeof(float));
    for (int c = 0; c < channels; c++) {
        const int group = group_of(c, channels);
        float sum = 0.0f;
        for (int i = 0; i < pixels; i++) {
            const float value = activation[c * pixels + i];
            sum += squared ? value * value : value;
        }
        scores[group] += scale * sum / (float)(pixels * group_size(group, channels));
    }
}
