/* Windows that tile a map; those of the last row and column may be smaller. */
typedef struct {
    int channels, height, width, window_height, window_width;
} grid_shape;

/* How many pixels the window around row y and column x has. */
static float window_size(const grid_shape *g, int y, int x)
{
    const int top = y / g->window_height * g->window_height, left = x / g->window_width * g->window_width;
    const int high = g->height - top < g->window_height ? g->height - top : g->window_height;
    const int wide = g->width - left < g->window_width ? g->width - left : g->window_width;
    return (float)(high * wide);
}

/* The index of the window that holds a value of the map. */
static int window_of(const grid_shape *g, int c, int y, int x)
{
    const int rows = (g->height + g->window_height - 1) / g->window_height;
    const int columns = (g->width + g->window_width - 1) / g->window_width;
    return (c * rows + y / g->window_height) * columns + x / g->window_width;
}

/* The mean of each of the `count` windows of a map. */
static void grid_pool(const grid_shape *g, int count, const float *values, float *means)
{
    memset(means, 0, (size_t)count * sizeof(float));
    for (int c = 0; c < g->channels; c++) {
        for (int y = 0; y < g->height; y++) {
            for (int x = 0; x < g->width; x++) {
                means[window_of(g, c, y, x)] += values[(c * g->height + y) * g->width + x] / window_size(g, y, x);
            }
        }
    }
}
