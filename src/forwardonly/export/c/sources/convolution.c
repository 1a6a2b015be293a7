/* out = max-pooling of (weight * in + bias) for each row; `winner` notes which value of a window was the
 * largest; NULL without pooling. */
static void convolution(const convolution_shape *s, int rows, const float *weight, const float *bias, const float *in,
                        float *out, unsigned char *winner)
{
    const int in_size = s->in_channels * s->in_height * s->in_width;
    int at = 0;
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < s->out_channels; c++) {
            for (int y = 0; y < s->out_height; y++) {
                for (int x = 0; x < s->out_width; x++, at++) {
                    for (int p = 0; p < s->pool_height * s->pool_width; p++) {
                        const int py = y * s->pool_height + p / s->pool_width;
                        const int px = x * s->pool_width + p % s->pool_width;
                        const float value = convolution_at(s, weight, in + r * in_size, c, py, px);
                        if (p == 0 || value > out[at]) {
                            out[at] = value;
                            if (winner != NULL) {
                                winner[at] = (unsigned char)p;
                            }
                        }
                    }
                    if (bias != NULL) {
                        out[at] += bias[c];
                    }
                }
            }
        }
    }
}
