/* log(1 + exp(z)), and its derivative. */
static float softplus(float z)
{
    return z > 0.0f ? z + logf(1.0f + expf(-z)) : logf(1.0f + expf(z));
}

static float sigmoid(float z)
{
    return z > 0.0f ? 1.0f / (1.0f + expf(-z)) : expf(z) / (1.0f + expf(z));
}
