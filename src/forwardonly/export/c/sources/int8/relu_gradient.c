/* The gradient through a ReLU, in place. */
static void relu_gradient(int count, const int8_t *activation, int32_t *gradient)
{
    for (int i = 0; i < count; i++) {
        if (activation[i] <= 0) {
            gradient[i] = 0;
        }
    }
}
