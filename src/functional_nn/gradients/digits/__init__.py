"""Evaluation of traced functions with many digits of precision."""
