"""Checkpoints: find checkpoint files, read and write them, and build generators and data modules from them."""
