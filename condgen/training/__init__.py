"""Training: the Trainer, its callbacks and its loggers."""
