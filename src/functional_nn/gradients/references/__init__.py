"""Independent derivatives: references to which formulas and automatic differentiation are compared."""
