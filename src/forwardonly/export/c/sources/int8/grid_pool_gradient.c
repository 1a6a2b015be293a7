/* The gradient of the map behind the means of its windows, 256 times as large. */
static void grid_pool_gradient(const grid_shape *g, const int32_t *to_means, int32_t *gradient)
{
    for (int c = 0; c < g->channels; c++) {
        for (int top = 0; top < g->height; top += g->window_height) {
            for (int left = 0; left < g->width; left += g->window_width) {
                const int bottom = window_end(top, g->window_height, g->height);
                const int right = window_end(left, g->window_width, g->width);
                const int64_t each = divided((int64_t)*to_means++ * 256, (bottom - top) * (right - left));
                for (int y = top; y < bottom; y++) {
                    for (int x = left; x < right; x++) {
                        gradient[(c * g->height + y) * g->width + x] = (int32_t)each;
                    }
                }
            }
        }
    }
}
