/* Windows that tile a map; those of the last row and column may be smaller. */
typedef struct {
    int channels, height, width, window_height, window_width;
} grid_shape;

/* The end of the window that begins at `start` on a side of `size`. */
static int window_end(int start, int window, int size)
{
    return start + window < size ? start + window : size;
}

/* The mean of each window of a map. */
static void grid_pool(const grid_shape *g, const int8_t *values, int8_t *means)
{
    for (int c = 0; c < g->channels; c++) {
        for (int top = 0; top < g->height; top += g->window_height) {
            for (int left = 0; left < g->width; left += g->window_width) {
                const int bottom = window_end(top, g->window_height, g->height);
                const int right = window_end(left, g->window_width, g->width);
                int32_t sum = 0;
                for (int y = top; y < bottom; y++) {
                    for (int x = left; x < right; x++) {
                        sum += values[(c * g->height + y) * g->width + x];
                    }
                }
                *means++ = (int8_t)divided(sum, (bottom - top) * (right - left));
            }
        }
    }
}
