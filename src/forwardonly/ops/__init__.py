"""Parameter-free operations on activations and assignments, and the convolution of bodies and heads."""
