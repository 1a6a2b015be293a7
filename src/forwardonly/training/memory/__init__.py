"""Training in less memory: micro-batches, and idle blocks offloaded."""
