/* From the errors of the cosines the gradient of the features, then a step of the prototypes down theirs:
 * d cos / d p = (f / |f| - cos p / |p|) / |p|, and the same for f. */
static void prototypes_update(int size, int64_t rate, int bits, const int64_t *cosine, const int32_t *errors,
                              const int8_t *features, int32_t *to_features,
                              int8_t *prototypes, int8_t *error)
{
    const int64_t length = length_of(size, features);
    int64_t along = 0;
    for (int i = 0; i < size; i++) {
        to_features[i] = 0;
    }
    for (int c = 0; c < FO_CLASSES; c++) {
        const int8_t *own = prototypes + c * size;
        const int64_t own_length = length_of(size, own);
        const int64_t step = divided(rate * errors[c] * 256, own_length);
        along += errors[c] * cosine[c];
        for (int i = 0; i < size; i++) {
            const int at = c * size + i;
            const int64_t direction = unit(own[i], own_length);
            const int64_t turn = unit(features[i], length) - shifted(cosine[c] * direction, 13);
            to_features[i] += (int32_t)(errors[c] * direction);
            move(prototypes + at, error + at, shifted(step * turn, bits));
        }
    }
    for (int i = 0; i < size; i++) {
        to_features[i] -= (int32_t)shifted(along * unit(features[i], length), 13);
    }
}
