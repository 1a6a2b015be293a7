/* From the gradient of the scores that of the activation. */
static void group_scores_gradient(int channels, int pixels, int squared, float scale, const float *to_scores,
                                  const float *activation, float *gradient)
{
    for (int c = 0; c < channels; c++) {
        const int group = group_of(c, channels);
        const float each = scale * to_scores[group] / (float)(pixels * group_size(group, channels));
        for (int i = 0; i < pixels; i++) {
            gradient[c * pixels + i] = squared ? 2.0f * each * activation[c * pixels + i] : each;
        }
    }
}
