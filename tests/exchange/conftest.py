"""Files that only the tests of an installed library import."""

collect_ignore_glob = ["random_pytorch_models.py"]
