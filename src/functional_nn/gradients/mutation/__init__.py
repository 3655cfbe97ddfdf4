"""Mutation testing of gradient formulas: errors planted in a traced formula, which the comparison has to find."""
