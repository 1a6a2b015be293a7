/* out = matrix x, of a symmetric matrix whose rows are kept up to the diagonal. */
static void symmetric(int size, const float *matrix, const float *x, float *out)
{
    memset(out, 0, (size_t)size * sizeof(float));
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < i; j++) {
            out[i] += *matrix * x[j];
            out[j] += *matrix * x[i];
            matrix++;
        }
        out[i] += *matrix * x[i];
        matrix++;
    }
}
