/* The gradient of the map behind the means of its windows. */
static void grid_pool_gradient(const grid_shape *g, const float *to_means, float *gradient)
{
    for (int c = 0; c < g->channels; c++) {
        for (int y = 0; y < g->height; y++) {
            for (int x = 0; x < g->width; x++) {
                gradient[(c * g->height + y) * g->width + x] = to_means[window_of(g, c, y, x)] / window_size(g, y, x);
            }
        }
    }
}
