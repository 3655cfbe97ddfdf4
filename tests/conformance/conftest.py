"""Only the test files are collected. What they share skips them where PyTorch is missing."""

collect_ignore_glob = ["comparison.py", "weight_maps.py", "pytorch_cases/*"]
