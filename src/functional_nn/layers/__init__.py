"""Layers, one file a family, and the combinators that compose them."""
