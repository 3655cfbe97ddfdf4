"""How the members of a sweep are trained: grouping, batches of members, threads, storage."""
