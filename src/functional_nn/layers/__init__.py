"""Layers, and the combinators that compose them."""
