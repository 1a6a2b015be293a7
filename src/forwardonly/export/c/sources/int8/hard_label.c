/* A wrong label, drawn from the softmax of logits, which are 64 times too large and have `bits` behind the point; no
 * chance is below 1 / 32768 of the largest. */
static int hard_label(int bits, int label, const int64_t *logits)
{
    int64_t highest = logits[0], total = 0, chances[FO_CLASSES];
    int wrong = label;
    for (int c = 1; c < FO_CLASSES; c++) {
        highest = logits[c] > highest ? logits[c] : highest;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        const int32_t chance = exponential((highest - logits[c]) >> bits);
        chances[c] = c == label ? 0 : chance > 0 ? chance : 1;
        total += chances[c];
    }
    int64_t left = (int64_t)(random_next() >> 8) * total >> 24;
    for (int c = 0; c < FO_CLASSES && left >= 0; c++) {
        if (c != label) {
            wrong = c;
            left -= chances[c];
        }
    }
    return wrong;
}
