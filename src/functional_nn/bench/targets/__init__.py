"""Programs compiled for a chip that this machine does not have, and what can be said about them without a run."""
