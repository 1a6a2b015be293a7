/* By what the gradient of each channel is multiplied, scale / deviation, of 11 bits, in the place of the deviation; the
 * bits behind its point are returned. */
static int norm_factors(const norm_shape *n, const int8_t *scale, int32_t *deviation)
{
    for (int c = 0; c < n->channels; c++) {
        deviation[c] = (int32_t)(scale[c] * (((int64_t)1 << (n->sum_bits + 16)) / deviation[c]));
    }
    return n->scale_bits + 12 - fitted(n->channels, deviation);
}

/* The gradient of the sums, in place: factor (g - mean(g) - standard mean(g standard)); how many bits it has more behind
 * its point, besides those of the factors, is returned. */
static int batch_norm_gradient(const norm_shape *n, int rows, const int8_t *standard, const int32_t *factors,
                               int32_t *gradient)
{
    const int count = rows * n->pixels;
    for (int c = 0; c < n->channels; c++) {
        int64_t total = 0, along = 0;
        for (int i = 0; i < count; i++) {
            const int at = norm_at(n, c, i);
            total += gradient[at];
            along += gradient[at] * standard[at];
        }
        const int64_t mean = divided(total * 256, count), slope = divided(along * 256, count);
        for (int i = 0; i < count; i++) {
            const int at = norm_at(n, c, i);
            gradient[at] = (int32_t)(gradient[at] * 256 - mean - shifted(standard[at] * slope, 8));
        }
    }
    const int down = fitted(count * n->channels, gradient);
    for (int c = 0; c < n->channels; c++) {
        for (int i = 0; i < count; i++) {
            gradient[norm_at(n, c, i)] *= factors[c];
        }
    }
    return 8 - down;
}
