"""Scores of generated images: the evaluator network, reports, comparisons and plots."""
