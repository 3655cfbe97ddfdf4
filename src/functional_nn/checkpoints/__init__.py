"""Arrays on disk, never silently wrong: parameters in one file, and checkpoints of whatever a run has reached."""
