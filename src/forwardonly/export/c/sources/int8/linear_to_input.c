/* The gradient of the input: to_x = weight^T gradient. */
static void linear_to_input(int inputs, int outputs, const int8_t *weight, const int32_t *gradient, int32_t *to_x)
{
    for (int i = 0; i < inputs; i++) {
        to_x[i] = 0;
    }
    for (int o = 0; o < outputs; o++) {
        for (int i = 0; i < inputs && gradient[o] != 0; i++) {
            to_x[i] += gradient[o] * weight[o * inputs + i];
        }
    }
}
