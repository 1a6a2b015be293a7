/* A batch norm: its constants. */
typedef struct {
    int channels, pixels;
    int sum_bits;     /* behind the point of the sums that it standardises */
    int scale_bits;   /* behind the point of its scale */
    int32_t least;    /* the smallest deviation by which it divides */
    int32_t momentum; /* of its running statistics, at 2^16 */
} norm_shape;

/* Where value i of a channel is: the values of an example stand together, and in these those of a channel. */
static int norm_at(const norm_shape *n, int channel, int i)
{
    return (i / n->pixels * n->channels + channel) * n->pixels + i % n->pixels;
}

/* 16 times the mean of a channel's sums. */
static int64_t channel_mean(const norm_shape *n, int channel, int count, const int32_t *sums)
{
    int64_t total = 0;
    for (int i = 0; i < count; i++) {
        total += sums[norm_at(n, channel, i)];
    }
    return divided(total * 16, count);
}

/* 16 times the deviation of a channel's sums; in `unbiased` that of count - 1 values. */
static int64_t channel_deviation(const norm_shape *n, int channel, int count, int64_t mean, const int32_t *sums,
                                 int64_t *unbiased)
{
    int64_t largest = 0, spread = 0;
    int down = 0;
    for (int i = 0; i < count; i++) {
        const int64_t centred = (int64_t)sums[norm_at(n, channel, i)] * 16 - mean;
        const int64_t size = centred < 0 ? -centred : centred;
        largest = size > largest ? size : largest;
    }
    while (largest >> down >= 1048576) { /* so that the squares of 20 bits fit */
        down++;
    }
    for (int i = 0; i < count; i++) {
        const int64_t centred = shifted((int64_t)sums[norm_at(n, channel, i)] * 16 - mean, down);
        spread += centred * centred;
    }
    const int64_t deviation = root(divided(spread, count)) << down;
    *unbiased = root(divided(spread, count - 1)) << down;
    *unbiased = *unbiased > n->least ? *unbiased : n->least;
    return deviation > n->least ? deviation : n->least;
}

/* out = scale standard + shift, where `standard` are the sums (rows, channels, pixels) less their mean, divided by their
 * deviation: in training those of the batch, which also move the running ones, else the running ones. Means and
 * deviations are 16 times as large as the sums. */
static void batch_norm(const norm_shape *n, int rows, int training, int relu, const int8_t *scale,
                       const int32_t *shift, int32_t *running_mean, int32_t *running_deviation, const int32_t *sums,
                       int8_t *standard, int32_t *deviation, int8_t *out)
{
    const int count = rows * n->pixels;
    for (int c = 0; c < n->channels; c++) {
        int64_t mean = running_mean[c], unbiased = 0;
        deviation[c] = running_deviation[c];
        if (training) {
            mean = channel_mean(n, c, count, sums);
            deviation[c] = (int32_t)channel_deviation(n, c, count, mean, sums, &unbiased);
            running_mean[c] += (int32_t)shifted(n->momentum * (mean - running_mean[c]), 16);
            running_deviation[c] += (int32_t)shifted(n->momentum * (unbiased - running_deviation[c]), 16);
        }
        const int64_t factor = ((int64_t)1 << 32) / deviation[c];
        for (int i = 0; i < count; i++) {
            const int at = norm_at(n, c, i);
            standard[at] = clamped(shifted(((int64_t)sums[at] * 16 - mean) * factor, 28));
            out[at] = clamped(shifted(standard[at] * scale[c] + shifted(shift[c], 8), n->scale_bits));
            if (relu && out[at] < 0) {
                out[at] = 0;
            }
        }
    }
}
