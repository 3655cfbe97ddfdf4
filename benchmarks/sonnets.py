"""The text of W6: windows of Shakespeare's sonnets, character by character."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import w6

TEXT = Path(__file__).resolve().parents[1] / "examples" / "data" / "sonnets.txt"
HELD_OUT = "No longer mourn for me when I am dead"
"""The line with which the last seven sonnets begin."""


class Sonnets(NamedTuple):
    """Windows as int32, (windows, time + 1): the network reads all tokens but the last, and predicts all but the first.

    Args:
        train: one window every 32 characters, as many as full batches have.
        test: the held-out sonnets, in windows that do not overlap.
    """

    train: np.ndarray
    test: np.ndarray


def read_sonnets() -> Sonnets:
    """The windows of the text in `examples/data/sonnets.txt`, of which the last seven sonnets are held out."""
    text = TEXT.read_text("ascii")
    characters = sorted(set(text))
    tokens = np.array([characters.index(character) for character in text], np.int32)
    train, test = tokens[: text.index(HELD_OUT)], tokens[text.index(HELD_OUT) :]
    windows = _windows(train, w6.STRIDE)
    full_batches = windows[: len(windows) // w6.SIZES.batch * w6.SIZES.batch]
    return Sonnets(full_batches, _windows(test, w6.SIZES.time))


def share_of_right_characters(logits: np.ndarray, windows: np.ndarray) -> float:
    """How often the largest logit is that of the next character."""
    return float(np.mean(logits.argmax(axis=-1) == windows[:, 1:]))


def _windows(tokens: np.ndarray, stride: int) -> np.ndarray:
    starts = np.arange(0, len(tokens) - w6.SIZES.time, stride)
    return tokens[starts[:, None] + np.arange(w6.SIZES.time + 1)]
