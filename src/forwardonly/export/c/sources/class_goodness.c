/* The cosine of the features with each prototype, and each class's goodness: their log-mean-exp at 1 / tau. */
static void class_goodness(int size, int per_class, float tau, const float *prototypes, const float *features,
                           float *cosine, float *goodness)
{
    const float shrink = 1.0f / sqrtf(mean_square(size, features) + 1e-12f);
    for (int p = 0; p < CLASSES * per_class; p++) {
        const float *own = prototypes + p * size;
        float product = 0.0f;
        for (int i = 0; i < size; i++) {
            product += features[i] * own[i];
        }
        cosine[p] = product * shrink / prototype_rms(p / per_class, size, own) / (float)size;
    }
    for (int c = 0; c < CLASSES; c++) {
        const float *own = cosine + c * per_class;
        float largest = own[0], sum = 0.0f;
        for (int q = 1; q < per_class; q++) {
            largest = own[q] > largest ? own[q] : largest;
        }
        for (int q = 0; q < per_class; q++) {
            sum += expf(tau * (own[q] - largest));
        }
        goodness[c] = largest + logf(sum / (float)per_class) / tau;
    }
}
