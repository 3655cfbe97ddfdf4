"""Normalization layers: batch, layer, RMS, group and instance normalization."""
