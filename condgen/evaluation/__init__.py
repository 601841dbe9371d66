"""Scoring of generated images, along with reports, comparisons, and plots."""
