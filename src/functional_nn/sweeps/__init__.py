"""Populations of models trained in one call."""
