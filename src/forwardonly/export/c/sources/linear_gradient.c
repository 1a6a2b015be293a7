/* Adds share times the gradient of weight and bias, which may be NULL. */
static void linear_gradient(int rows, int inputs, int outputs, float share, const float *gradient, const float *x,
                            float *to_weight, float *to_bias)
{
    for (int o = 0; o < outputs; o++) {
        float total = 0.0f;
        for (int r = 0; r < rows; r++) {
            total += gradient[r * outputs + o];
        }
        if (to_bias != NULL) {
            to_bias[o] += share * total;
        }
        for (int i = 0; i < inputs; i++) {
            float sum = 0.0f;
            for (int r = 0; r < rows; r++) {
                sum += gradient[r * outputs + o] * x[r * inputs + i];
            }
            to_weight[o * inputs + i] += share * sum;
        }
    }
}
