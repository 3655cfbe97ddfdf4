"""The comparison of hand-derived formulas with automatic differentiation and with an arbiter."""
