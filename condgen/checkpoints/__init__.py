"""Finds, reads and writes checkpoints, and builds generators and data modules from them."""
