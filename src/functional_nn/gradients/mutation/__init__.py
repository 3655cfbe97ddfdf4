"""How the mutants of a formula are made: from its traced program, one table of changes for a kind of equation."""
