"""Layers made of other layers."""
