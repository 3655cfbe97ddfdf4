"""Compiled programs of training: recipes, specifications, compilation, cache, devices and fingerprints."""
