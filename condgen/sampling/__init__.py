"""Sampling: in blocks, into files, and interpolated."""
