"""Functions that several test modules use."""
