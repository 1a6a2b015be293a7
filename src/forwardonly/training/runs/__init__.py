"""Records of a run: its folder, checkpoints, figures, loggers."""
