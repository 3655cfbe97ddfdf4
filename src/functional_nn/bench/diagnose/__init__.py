"""Causes of slowness, found in traced and compiled programs."""
