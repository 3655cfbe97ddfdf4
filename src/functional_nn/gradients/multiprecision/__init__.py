"""Evaluation of traced functions in numbers of many digits, without any derivative rule."""
