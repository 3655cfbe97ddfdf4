"""What the command and ``fit`` share about signals. Modules imported before JAX can use it."""

REPEAT_SECONDS = 1.0
"""Within this time, a second signal counts as a repetition: the command ``timeout`` sends each signal twice."""
