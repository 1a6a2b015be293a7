/* Divides an example's features, in place, by their root mean square. */
static void unit_rms(int count, int8_t *values)
{
    const int64_t squares = product(count, values, values);
    if (squares == 0) {
        return;
    }
    const int64_t factor = divided((int64_t)count << 20, root((squares * count) << 8)); /* 2^16 / rms */
    for (int i = 0; i < count; i++) {
        values[i] = clamped(shifted(values[i] * factor, 12));
    }
}
