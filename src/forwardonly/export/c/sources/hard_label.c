/* A wrong label, drawn from softmax(logits) without the right class; no chance is below 1e-6. */
static int hard_label(int label, const float *logits)
{
    float chances[FO_CLASSES], largest = logits[0], sum = 0.0f, total = 0.0f;
    int wrong = label;
    for (int c = 1; c < FO_CLASSES; c++) {
        largest = logits[c] > largest ? logits[c] : largest;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        chances[c] = expf(logits[c] - largest);
        sum += chances[c];
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        chances[c] = c == label ? 0.0f : chances[c] / sum > 1e-6f ? chances[c] / sum : 1e-6f;
        total += chances[c];
    }
    float left = total * (float)(random_next() >> 8) / 16777216.0f; /* 24 bits, as a float holds them */
    for (int c = 0; c < FO_CLASSES && left >= 0.0f; c++) {
        if (c != label) {
            wrong = c;
            left -= chances[c];
        }
    }
    return wrong;
}
