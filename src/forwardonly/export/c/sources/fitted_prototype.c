/* The prototype of a new class in place of the sum of its examples' unit features: a score of linear discriminant
 * analysis, raised until the new class is three deviations behind the nearest old class on that class's examples.
 * `matrix` and `within` are symmetric, `means` are of the unit features of each class that was trained. */
static void fitted_prototype(int size, int count, const float *matrix, const float *within, const float *base,
                             const float *ones, const float *means, float spread, const float *prototypes,
                             float *own)
{
    float *product = scratch, *off = scratch + size;
    float bias = 0.0f, room = 0.0f;
    for (int i = 0; i < size; i++) {
        own[i] /= (float)count;
    }
    symmetric(size, matrix, own, product);
    for (int i = 0; i < size; i++) {
        bias += own[i] * product[i];
    }
    bias = -0.5f * (bias - spread / (float)count);
    for (int i = 0; i < size; i++) {
        own[i] = base[i] + product[i] + bias * ones[i];
    }
    for (int c = 0; c < TRAINED; c++) {
        const float *old = prototypes + c * size;
        const float length = prototype_rms(c, size, old) * sqrtf((float)size);
        float lead = 0.0f, variance = 0.0f;
        for (int i = 0; i < size; i++) {
            off[i] = own[i] - old[i] / length;
            lead += off[i] * means[c * size + i];
        }
        symmetric(size, within, off, product);
        for (int i = 0; i < size; i++) {
            variance += off[i] * product[i];
        }
        lead += DEVIATIONS_BEHIND * sqrtf(variance > 0.0f ? variance : 0.0f);
        room = c == 0 || -lead < room ? -lead : room;
    }
    for (int i = 0; i < size && room > 0.0f; i++) {
        own[i] += room * ones[i];
    }
}
