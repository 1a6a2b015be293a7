"""Training in less memory: micro-batches, and offload of idle blocks."""
