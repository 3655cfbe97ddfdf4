"""Attention: dot product, multi-head, rotary positions, and the key-value cache."""
