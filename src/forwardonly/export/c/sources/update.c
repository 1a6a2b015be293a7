/* values = factor values + share other */
static void blend(int count, float factor, float share, float *values, const float *other)
{
    for (int i = 0; i < count; i++) {
        values[i] = factor * values[i] + share * other[i];
    }
}
