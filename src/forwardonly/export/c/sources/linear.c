/* out = weight x + bias for each row; bias may be NULL. */
static void linear(int rows, int inputs, int outputs, const float *weight, const float *bias, const float *x,
                   float *out)
{
    for (int r = 0; r < rows; r++) {
        for (int o = 0; o < outputs; o++) {
            float sum = 0.0f;
            for (int i = 0; i < inputs; i++) {
                sum += weight[o * inputs + i] * x[r * inputs + i];
            }
            out[r * outputs + o] = bias == NULL ? sum : sum + bias[o];
        }
    }
}
