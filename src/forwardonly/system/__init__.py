"""Process and machine: precision, memory, the heap, memory-mapped tensors."""
