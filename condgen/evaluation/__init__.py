"""Scores: the evaluator network, reports, comparisons and plots."""
