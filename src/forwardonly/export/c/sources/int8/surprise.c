/* exp(-t / 64) is whole[t / 64] part[t % 64], both of 2^15. */
static const uint32_t whole[16] = {FO_WHOLE};
static const uint32_t part[64] = {FO_PART};

/* softmax - one-hot of scores, which are 64 times too large and have `bits` behind the point, at 2^(15 + up): `up`
 * gives the largest of them at least 14 bits. The loss is that of the chances before. */
static int surprise(int bits, int label, const int64_t *scores, int32_t *errors, float *loss)
{
    int64_t highest = scores[0];
    uint32_t sum = 0;
    int32_t largest = 0;
    int up = 0;
    for (int c = 1; c < FO_CLASSES; c++) {
        highest = scores[c] > highest ? scores[c] : highest;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        const int64_t below = (highest - scores[c]) >> bits;
        errors[c] = below >= 1024 ? 0 : (int32_t)(whole[below >> 6] * part[below & 63] >> 15);
        sum += (uint32_t)errors[c];
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        errors[c] = (int32_t)(((uint32_t)errors[c] << 15) / sum);
    }
    *loss = -logf((float)(errors[label] > 0 ? errors[label] : 1) / 32768.0f);
    errors[label] -= 32768;
    for (int c = 0; c < FO_CLASSES; c++) {
        const int32_t size = errors[c] < 0 ? -errors[c] : errors[c];
        largest = size > largest ? size : largest;
    }
    for (; largest > 0 && largest < 16384; largest *= 2) {
        up++;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        errors[c] *= 1 << up;
    }
    return up;
}
