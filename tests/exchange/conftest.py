"""Files that only the tests of an installed library import."""

collect_ignore_glob = ["pytorch_models.py", "random_pytorch_models.py"]
