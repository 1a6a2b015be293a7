"""The process and the machine: precision, memory, the heap, tensors in files."""
