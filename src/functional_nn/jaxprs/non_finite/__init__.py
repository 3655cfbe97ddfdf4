"""The search for the operation that first made a result NaN or infinite."""
