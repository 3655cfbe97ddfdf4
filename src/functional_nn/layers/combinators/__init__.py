"""Combinators: layers made of other layers."""
