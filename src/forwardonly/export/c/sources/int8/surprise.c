/* softmax - one-hot of scores, which are 64 times too large and have `bits` behind the point, at 2^(15 + up): `up`
 * gives the largest of them at least 14 bits. The loss is that of the chances before. */
static int surprise(int bits, int label, const int64_t *scores, int32_t *errors, float *loss)
{
    int64_t highest = scores[0];
    uint32_t sum = 0;
    for (int c = 1; c < FO_CLASSES; c++) {
        highest = scores[c] > highest ? scores[c] : highest;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        errors[c] = exponential((highest - scores[c]) >> bits);
        sum += (uint32_t)errors[c];
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        errors[c] = (int32_t)(((uint32_t)errors[c] << 15) / sum);
    }
    *loss = -logf((float)(errors[label] > 0 ? errors[label] : 1) / 32768.0f);
    errors[label] -= 32768;
    return raised(FO_CLASSES, errors);
}
