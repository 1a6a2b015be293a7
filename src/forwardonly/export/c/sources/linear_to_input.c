/* The gradient of the input: to_x = weight^T gradient for each row. */
static void linear_to_input(int rows, int inputs, int outputs, const float *weight, const float *gradient, float *to_x)
{
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < inputs; i++) {
            to_x[r * inputs + i] = 0.0f;
        }
        for (int o = 0; o < outputs; o++) {
            const float own = gradient[r * outputs + o];
            for (int i = 0; i < inputs && own != 0.0f; i++) {
                to_x[r * inputs + i] += own * weight[o * inputs + i];
            }
        }
    }
}
