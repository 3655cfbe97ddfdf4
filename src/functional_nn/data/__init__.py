"""Data sets: images and labels from the package, TFDS or IDX files."""
