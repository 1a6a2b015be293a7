"""Networks: rows of blocks, built from a body, cut from a model, or read from files."""
