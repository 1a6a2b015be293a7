/* The cross-entropy of scores with a label, of which `smoothing` is spread over all classes. The scores become the
 * gradient: softmax(scores) - target. */
static float cross_entropy(int label, float smoothing, float *scores)
{
    float largest = scores[0], sum = 0.0f, loss = 0.0f;
    for (int c = 1; c < CLASSES; c++) {
        largest = scores[c] > largest ? scores[c] : largest;
    }
    for (int c = 0; c < CLASSES; c++) {
        sum += expf(scores[c] - largest);
    }
    for (int c = 0; c < CLASSES; c++) {
        const float target = (c == label ? 1.0f - smoothing : 0.0f) + smoothing / (float)CLASSES;
        const float log_chance = scores[c] - largest - logf(sum);
        loss -= target * log_chance;
        scores[c] = expf(log_chance) - target;
    }
    return loss;
}
