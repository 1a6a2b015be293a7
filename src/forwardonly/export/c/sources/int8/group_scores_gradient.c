/* From the errors of the scores the gradient of the activation. */
static void group_scores_gradient(int channels, int pixels, int squared, const int32_t *errors,
                                  const int8_t *activation, int32_t *gradient)
{
    for (int c = 0; c < channels; c++) {
        const int group = group_of(c, channels);
        const int32_t each = (int32_t)divided((int64_t)errors[group] * 256, group_size(group, channels) * pixels);
        for (int i = 0; i < pixels; i++) {
            gradient[c * pixels + i] = squared ? each * activation[c * pixels + i] : each;
        }
    }
}
