"""Recorded measurements, and comparisons with older ones."""
