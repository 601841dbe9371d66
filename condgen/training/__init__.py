"""The Trainer and everything it needs, such as callbacks and loggers."""
