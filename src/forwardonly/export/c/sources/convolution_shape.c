/* A convolution with zero padding, and the max-pooling behind it (1 x 1: none). */
typedef struct {
    int in_channels, in_height, in_width;
    int out_channels, out_height, out_width; /* behind the pooling */
    int kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;
    int pool_height, pool_width;
    int depthwise; /* 1: channel c sees channel c alone; 0: it sees all */
} convolution_shape;

/* Inputs of one output value: the weights of one output channel. */
static int fan_in(const convolution_shape *s)
{
    return (s->depthwise ? 1 : s->in_channels) * s->kernel_height * s->kernel_width;
}

/* The part of a kernel, first to last - 1, that lies inside of a side of `size` when it begins at `start`. */
static int kernel_first(int start)
{
    return start < 0 ? -start : 0;
}

static int kernel_last(int start, int kernel, int size)
{
    return start + kernel > size ? size - start : kernel;
}
