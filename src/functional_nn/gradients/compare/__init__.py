"""The comparison of hand-derived gradients with automatic differentiation."""
