"""Utilities for generating samples, saving them to disk, and interpolating between them."""
