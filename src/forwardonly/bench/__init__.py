"""Benchmarks: time and memory of training, compared with backpropagation."""
