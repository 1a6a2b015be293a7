/* From the gradient of the goodness, that of the features (which may not be NULL) and, times share, of the
 * prototypes. cos = f.p / (|f| |p|), so d cos / d p = f / (|f| |p|) - cos p / |p|^2; where classes were added, |p| is
 * a constant, and the last term falls away. */
static void class_goodness_gradient(int size, int per_class, float tau, float share, const float *prototypes,
                                    const float *features, const float *cosine, const float *goodness,
                                    const float *to_goodness, float *to_features, float *to_prototypes)
{
    const float shrink = 1.0f / sqrtf(mean_square(size, features) + 1e-12f);
    memset(to_features, 0, (size_t)size * sizeof(float));
    for (int p = 0; p < CLASSES * per_class; p++) {
        const int c = p / per_class;
        const float chance = expf(tau * (cosine[p] - goodness[c])) / (float)per_class; /* 1 if there is one */
        const float to_cosine = to_goodness[c] * chance;
        const float *own = prototypes + p * size;
        const float own_shrink = 1.0f / prototype_rms(c, size, own);
        const float both = to_cosine * shrink * own_shrink / (float)size;
        const float back = to_cosine * cosine[p] * shrink * shrink / (float)size;
        const float own_back = c < TRAINED ? to_cosine * cosine[p] * own_shrink * own_shrink / (float)size : 0.0f;
        for (int i = 0; i < size; i++) {
            const float before = own[i]; /* to_prototypes may be the prototypes themselves */
            to_features[i] += both * before - back * features[i];
            to_prototypes[p * size + i] += share * (both * features[i] - own_back * before);
        }
    }
}
