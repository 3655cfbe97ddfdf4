"""Data sets in a notebook: sizes, and an example of each class as a picture."""

from __future__ import annotations

import jax
import numpy as np

from functional_nn.core.masked import Masked, Value
from functional_nn.core.trees import path_of
from functional_nn.core.validation import shown
from functional_nn.data.dataset import Dataset, Split
from functional_nn.reports.notebook.markup import Html, empty_tag, faint, table, tag, title, view
from functional_nn.reports.pages.pictures import as_png

LEAST_IMAGES, MOST_IMAGES = 8, 12
"""The number of images shown: one of each class, and more if there are few classes."""
LARGEST_SIDE = 96
"""Larger images are made smaller, so that the notebook stays small."""


def dataset_html(data: Dataset) -> str:
    """The parts with their sizes, and the first training image of each class."""
    size = "×".join(str(length) for length in data.train_images.shape[1:])
    heading = title(data.name, faint(f"images {size}, {data.classes} classes, from {data.source}"))
    split = data.split()
    parts = [(name, split.part(name)[1]) for name in ("train", "validation", "test")]
    counts = ", ".join(f"{len(labels):,} for {_purpose(name)}" for name, labels in parts if labels is not None)
    return view(heading, tag("p", counts), _images(data.train_images, data.train_labels))


def _purpose(part: str) -> str:
    return {"train": "training", "test": "testing"}.get(part, part)


def _images(images: np.ndarray, labels: np.ndarray) -> Html:
    """The first image of each class, and if there are few classes, the first other images."""
    _, firsts = np.unique(labels, return_index=True)
    chosen = list(map(int, firsts[:MOST_IMAGES]))
    others = [place for place in range(min(len(labels), LEAST_IMAGES)) if place not in chosen]
    chosen += others[: max(0, LEAST_IMAGES - len(chosen))]
    figures = [_figure(images[place], int(labels[place])) for place in sorted(chosen, key=lambda i: labels[i])]
    return tag("div", *figures, class_="fnn-images")


def _figure(image: np.ndarray, label: int) -> Html:
    from PIL import Image

    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    source = as_png(np.atleast_3d(np.asarray(picture)))
    return tag("figure", empty_tag("img", src=source, alt=f"example of class {label}"), tag("figcaption", str(label)))


def split_html(split: Split) -> str:
    """A table of the arrays in each part."""
    rows = []
    for name in ("train", "validation", "test"):
        x, labels = split.part(name)
        if x is not None:
            rows.append((_purpose(name), _in_words(x), _in_words(labels)))
    return view(title("Split", faint("data as arrays")), table(("for", "examples", "labels"), rows, label="parts"))


def _in_words(value: Value) -> str:
    """The types and shapes of arrays."""
    if isinstance(value, Masked):
        return f"masked {shown(value.values)}"
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    names = [path_of(path) for path, _ in leaves]
    texts = [f"{name}: {shown(leaf)}" if name else shown(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
    return ", ".join(texts) or "none"
