"""Independent derivatives: the references that formulas and automatic differentiation are measured by."""
