"""Sampling: generating samples in blocks, writing them to files, and interpolating between them."""
