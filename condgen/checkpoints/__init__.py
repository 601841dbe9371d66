"""Checkpoints: which one is meant, how it is read, and how a generator is built from it."""
