"""Mutation testing of gradient formulas: errors made in a traced formula, which the comparison has to find."""
