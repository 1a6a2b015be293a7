/* The root mean square by which a class's prototype is divided. That of an added class keeps its length. */
static float prototype_rms(int c, int size, const float *prototype)
{
    return c < TRAINED ? sqrtf(mean_square(size, prototype) + 1e-12f) : 1.0f / sqrtf((float)size);
}
