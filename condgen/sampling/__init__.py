"""Samples: drawn in blocks, written to files, interpolated."""
