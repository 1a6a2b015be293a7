/* The class that a channel belongs to; the channels of a class stand together. */
static int group_of(int channel, int channels)
{
    return channel * FO_CLASSES / channels;
}

/* The first channel of a class. */
static int group_start(int group, int channels)
{
    return (group * channels + FO_CLASSES - 1) / FO_CLASSES;
}

/* How many channels a class has. */
static int group_size(int group, int channels)
{
    return group_start(group + 1, channels) - group_start(group, channels);
}
