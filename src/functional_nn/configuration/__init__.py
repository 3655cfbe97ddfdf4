"""The configuration of a training run: its flags, recipes, and values from files."""
