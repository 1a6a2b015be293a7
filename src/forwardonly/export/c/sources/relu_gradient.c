/* The gradient through a ReLU, in place. */
static void relu_gradient(int count, const float *activation, float *gradient)
{
    for (int i = 0; i < count; i++) {
        if (activation[i] <= 0.0f) {
            gradient[i] = 0.0f;
        }
    }
}
