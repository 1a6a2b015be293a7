"""Networks: blocks in a row, how they are built, cut from a model, and kept in files."""
