"""Evaluation of traced functions with many digits of precision, without any derivative rule."""
