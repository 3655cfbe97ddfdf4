"""What the scripts of W5 share: the files, the network's sizes, the goal and the recipe."""

import gzip
from pathlib import Path

import numpy as np

SIZES = (784, 128, 64, 10)
GOAL = 0.98
TUNED = {"learning_rate": 0.01, "batch_size": 256, "epochs": 7}


def arrays(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images in [0, 1] and labels from the gzipped IDX files."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images.astype(np.float32) / 255, labels.astype(np.int64)
