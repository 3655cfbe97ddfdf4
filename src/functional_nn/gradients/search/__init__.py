"""The search for the inputs at which a function and its derivatives have the largest errors."""
