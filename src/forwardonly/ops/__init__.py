"""Parameter-free operations on activations, and the convolution of bodies and heads."""
