"""Labeled data, split into training and test examples, and the checks that a data set passes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from functional_nn.core import errors
from functional_nn.core.errors import check, check_data, escaped, shown
from functional_nn.core.texts import counted, is_count

if TYPE_CHECKING:
    from functional_nn.core.masked import Value

# The command reads data while it imports JAX, so this module must not import JAX at its top.

MOST_CLASSES = 10**6
"""The largest number of classes of a data set or a saved network. Tables and pages have a text for each class."""


class Features(NamedTuple):
    """The columns of a table that a network takes, and how they are standardized.

    Attributes:
        names: the names of the columns.
        mean: the mean of each column over the training rows.
        deviation: the standard deviation over these, and 1 for a column of equal numbers.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def standardized(self, rows: ArrayLike) -> np.ndarray:
        """Rows in the units of the table, as the network takes them.

        Args:
            rows: real numbers, (rows, features).

        Raises:
            InputError: for other rows, and for a table (of pandas, Arrow …) whose columns have other names or another
                order.
        """
        columns = list(getattr(rows, "column_names", getattr(rows, "columns", ())))
        is_named = any(isinstance(name, str) for name in columns)
        check(
            "rows", columns, f"the columns {list(self.names)}, in this order", not is_named or columns == [*self.names]
        )
        return standardize(self._checked("rows", rows), self)

    def in_units(self, x: ArrayLike) -> np.ndarray:
        """The inverse of ``standardized``, up to rounding. It takes and gives (rows, features), too."""
        return self._checked("x", x) * self.deviation + self.mean

    def _checked(self, argument: str, rows: ArrayLike) -> np.ndarray:
        from functional_nn.core.validation import as_examples

        return as_examples(argument, rows, (len(self.names),))


def standardize(rows: np.ndarray, features: Features) -> np.ndarray:
    """The rows standardized, if they are known to fit. Unlike their check, this does not import JAX."""
    return ((rows - features.mean) / features.deviation).astype(np.float32)


MOST_LETTERS = 10**6
"""The largest number of letters in the names of all classes. A page repeats them often."""


class Dataset(NamedTuple):
    """Images or rows of a table, with their labels; build one with `make_dataset` or `from_csv`.

    Attributes:
        name: what it is loaded by.
        train_images: uint8 (number, height, width, channels); for a table standardized float32 (number, features).
        train_labels: int32 (number,), each in 0 .. classes - 1.
        test_images: as train_images.
        test_labels: as train_labels.
        classes: the number of classes.
        source: where it came from, in words.
        validation_images: as train_images, for choices during training; None if there are none.
        validation_labels: as train_labels.
        class_names: the name of each class, in the order of the labels; None if classes have numbers only.
        features: the columns of a table; None for images.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    source: str
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    features: Features | None = None

    def with_validation(self, share: float = 0.1, seed: int = 0) -> Dataset:
        """Keeps a share of the training images for validation: the same share of each class, drawn at random.

        >>> import functional_nn as fnn
        >>> fnn.load_dataset("mnist5k").with_validation(0.1)
        <Dataset mnist5k: 3,600 training, 400 validation and 1,000 test images, 28x28x1, 10 classes>
        """
        names = ("train_images", "train_labels", "test_images", "test_labels", "validation_images", "validation_labels")
        return self._replace(**dict(zip(names, self.split().with_validation(share, seed), strict=True)))

    def split(self) -> Split:
        """The same images and labels without the rest."""
        return Split(*self[1:5], self.validation_images, self.validation_labels)

    def describe(self) -> str:
        """Describes the data set in one line: name, sizes, shape of an example, classes, source."""
        return escaped(f"{self.name}: {self._sizes()}, from {self.source}")

    def about(self) -> dict[str, object]:
        """The entries about the data in the configuration of a run: the classes, and what an example is."""
        example: dict[str, object] = {"image_shape": list(self.train_images.shape[1:])}
        if self.features is not None:
            example = {"features": self.features._asdict()}
        return {"classes": self.classes, **example, "class_names": self.class_names}

    def checksum(self) -> str:
        """The SHA-256 of the images and labels of all parts. It shows whether they have changed since a run."""
        from functional_nn.storage.arrays import checksum_of

        return checksum_of("data", self.split()._asdict())

    def __repr__(self) -> str:
        return escaped(f"<Dataset {self.name}: {self._sizes()}>")

    def _sizes(self) -> str:
        kind, size = "images", "x".join(str(length) for length in self.train_images.shape[1:])
        if self.features is not None:
            kind, size = "rows", counted(len(self.features.names), "feature")
        images = {"training": self.train_images, "validation": self.validation_images, "test": self.test_images}
        *others, last = (f"{len(array):,} {part}" for part, array in images.items() if array is not None)
        return f"{', '.join(others)} and {last} {kind}, {size}, {self.classes} classes"


class Split(NamedTuple):
    """Training examples as arrays, and optionally test and validation examples, for data that are not a ``Dataset``.

    Examples and labels are arrays, ``Masked`` sequences, or tuples and dicts of these, with examples along axis 0.

    If there are validation examples, every choice is made on them, and test examples are evaluated once, at the end.
    Otherwise test examples are evaluated after every epoch, and choices are made on them.

    Attributes:
        train_x: what the network takes.
        train_labels: what the loss takes.
        test_x: as train_x; None if there are no test examples.
        test_labels: as train_labels.
        validation_x: as train_x; None if there are no validation examples.
        validation_labels: as train_labels.

    >>> import functional_nn as fnn, numpy as np
    >>> fnn.data.Split(np.zeros((60, 4)), np.zeros(60, int), np.zeros((30, 4)), np.zeros(30, int))
    <Split: training examples float64 of shape (60, 4), labels int64 of shape (60,); test examples float64 of shape
    (30, 4), labels int64 of shape (30,)>
    """

    train_x: Value
    train_labels: Value
    test_x: Value = None
    test_labels: Value = None
    validation_x: Value = None
    validation_labels: Value = None

    def with_validation(self, share: float = 0.1, seed: int = 0) -> Split:
        """Keeps a share of the training examples for validation, drawn at random.

        If the labels are class numbers, the same share of each class is kept.

        >>> import functional_nn as fnn, numpy as np
        >>> data = fnn.data.Split(np.zeros((60, 4)), np.arange(60) % 3).with_validation(0.2)
        >>> len(data.train_x), len(data.validation_x), np.bincount(data.validation_labels)
        (48, 12, array([4, 4, 4]))
        """
        import jax

        from functional_nn.data.preparation import as_numpy, check_examples, number_of_examples

        check("data", self, "data without validation examples", self.validation_x is None)
        x = as_numpy("data.train_x", self.train_x, in_types_of_jax=False)
        labels = as_numpy("data.train_labels", self.train_labels, in_types_of_jax=False)
        check_examples("training data", x, labels)
        is_class = isinstance(labels, np.ndarray) and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        rest, kept = training_and_validation(number_of_examples(x), labels if is_class else None, share, seed)
        return self._replace(
            train_x=jax.tree.map(itemgetter(rest), x),
            train_labels=jax.tree.map(itemgetter(rest), labels),
            validation_x=jax.tree.map(itemgetter(kept), x),
            validation_labels=jax.tree.map(itemgetter(kept), labels),
        )

    @property
    def evaluated_part(self) -> str:
        """The part that is evaluated after every epoch: ``"validation"``, ``"test"``, or ``""`` if there is neither."""
        if self.validation_x is not None:
            return "validation"
        return "" if self.test_x is None else "test"

    def part(self, name: str) -> tuple[Value, Value]:
        """The examples and labels of a part: ``"train"``, ``"validation"`` or ``"test"``."""
        return getattr(self, f"{name}_x"), getattr(self, f"{name}_labels")

    def __repr__(self) -> str:
        texts = []
        for name, words in (("train", "training"), ("validation", "validation"), ("test", "test")):
            x, labels = self.part(name)
            if x is not None:
                texts.append(f"{words} examples {shown(x)}, labels {shown(labels)}")
        return f"<Split: {'; '.join(texts)}>"


def as_split(data: Any) -> Split:
    """The examples and labels of a data set or a split in NumPy, in the types that JAX computes in.

    Raises:
        InputError: for anything else, for examples without labels or labels without examples, and for parts whose
            examples have other shapes than those for training.
    """
    import jax

    from functional_nn.data.preparation import as_numpy, check_examples

    data = data.split() if isinstance(data, Dataset) else data
    is_split = isinstance(data, tuple) and 2 <= len(data) <= len(Split._fields) and len(data) % 2 == 0
    remedy = "Write Split(table[columns].to_numpy(), labels)." if hasattr(data, "to_numpy") else ""
    check("data", data, "a Dataset or a Split(train_x, train_labels, test_x, test_labels)", is_split, remedy)
    split = Split(*data)
    for name in ("train", "test", "validation"):
        x, labels = split.part(name)
        are_both = (x is None) == (labels is None) and (name != "train" or x is not None)
        check(f"data.{name}_x", (x, labels), "examples together with labels", are_both)
        if x is None:
            continue
        x, labels = as_numpy(f"data.{name}_x", x), as_numpy(f"data.{name}_labels", labels)
        check_examples(f"{name} data", x, labels)
        split = split._replace(**{f"{name}_x": x, f"{name}_labels": labels})
        shapes, expected = (jax.tree.map(lambda array: array.shape[1:], part) for part in (x, split.train_x))
        check(f"{name} data", x, f"examples of shape {expected}", shapes == expected)
        # Bytes are divided by 255 and other numbers are not, so all parts must be bytes or none.
        are_bytes = [[array.dtype == np.uint8 for array in jax.tree.leaves(part)] for part in (x, split.train_x)]
        expected = f"examples of the type of those for training, {shown(split.train_x)}"
        check(f"{name} data", x, expected, are_bytes[0] == are_bytes[1])
    return split


def make_dataset(
    name: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int | None = None,
    source: str,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Checks the four arrays and makes a `Dataset` of them.

    Args:
        name: what it is loaded by.
        train_images: uint8 (number, height, width, channels), or (number, height, width) for gray images.
        train_labels: integers (number,).
        test_images: as train_images, of the same height, width and channels.
        test_labels: as train_labels.
        classes: the number of classes; None for the number of names, or the largest label plus one.
        source: where it came from, in words.
        class_names: the name of each class, in the order of the labels. Pictures and tables show them.

    Returns:
        The data set, its labels as int32.

    Raises:
        DataError: if an array has the wrong type or shape, is empty, or does not fit the others.

    >>> import functional_nn as fnn, numpy as np
    >>> pixels = np.zeros((2, 28, 28), np.uint8)
    >>> labels = np.array([3, 1])
    >>> fnn.data.make_dataset("mine", pixels, labels, pixels, labels, source="a doctest").describe()
    'mine: 2 training and 2 test images, 28x28x1, 4 classes, from a doctest'
    """
    fits = classes is None or is_count(classes, most=MOST_CLASSES)
    check_data(f"{name} classes", classes, f"a positive integer up to {MOST_CLASSES:,}", fits)
    train_images, train_labels = _checked_part(f"{name} training", train_images, train_labels)
    test_images, test_labels = _checked_part(f"{name} test", test_images, test_labels)
    size = train_images.shape[1:]
    check_data(f"{name} test images", test_images, f"the training images' size {size}", test_images.shape[1:] == size)
    names = None if class_names is None else _checked_names(f"{name} class_names", class_names, classes)
    if classes is None:
        classes = len(names) if names else 1 + int(max(train_labels.max(), test_labels.max()))
    for part, labels in (("training", train_labels), ("test", test_labels)):
        worst = labels.min() if labels.min() < 0 else labels.max()
        check_data(f"{name} {part} labels", worst, f"labels in 0 .. {classes - 1}", 0 <= worst < classes)
    train_labels, test_labels = train_labels.astype(np.int32), test_labels.astype(np.int32)
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes, source, class_names=names)


def check_name(name: str) -> None:
    """Refuses a data set's name that could be a path.

    >>> check_name("fashion_mnist")
    >>> check_name("../mnist")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.DataError: data set: expected a name of at most 200 letters, digits, _ and -, got ...
    """
    is_name = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}", name)
    remedy = "IDX files go into data_dir. Folders of images are loaded as folder:PATH, tables as csv:FILE."
    check_data("data set", name, "a name of at most 200 letters, digits, _ and -", is_name, remedy)


def _checked_part(part: str, images: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Images as bytes with four axes (number, height, width, channels), and an integer for each."""

    def as_array(argument: str, given: ArrayLike) -> np.ndarray:
        with errors.reading(argument, "an array", errors=(TypeError, ValueError)):
            errors.check_no_gaps(argument, given)
            return np.asarray(given)

    images, labels = as_array(f"{part} images", images), as_array(f"{part} labels", labels)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    is_turned = errors.looks_channels_first(images.shape)
    are_images = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0 and not is_turned
    expected = "uint8 (number, height, width, channels), with at least one pixel"
    check_data(f"{part} images", images, expected, are_images, errors.TRANSPOSE if is_turned else "")
    are_labels = np.issubdtype(labels.dtype, np.integer) and labels.shape == images.shape[:1]
    check_data(f"{part} labels", labels, f"an integer for each of the {len(images):,} images", are_labels)
    check_data(f"{part} labels", labels.max(), f"labels below {MOST_CLASSES:,}", labels.max() < MOST_CLASSES)
    return images, labels


def _checked_names(argument: str, value: Sequence[str], classes: int | None) -> tuple[str, ...]:
    """The names of the classes: different texts, one for each class."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    differ = is_list and all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value)
    expected = f"different names, one for each {'class' if classes is None else f'of the {classes} classes'}"
    check_data(argument, value, expected, differ and classes in (None, len(value)))
    return tuple(value)


def training_and_validation(
    examples: int, labels: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the examples that are kept for validation; returns the numbers of the others and theirs, both rising.

    With class numbers as labels, each class gives the same share of its examples, rounded to the nearest number
    (stratified).

    Args:
        examples: the number of training examples.
        labels: class numbers, one for each example; None if there are none.
        share: the share of the examples to keep for validation, between 0 and 1.
        seed: of the draw.

    >>> rest, kept = training_and_validation(8, np.array([0, 0, 0, 0, 0, 0, 1, 1]), 0.5, 0)
    >>> len(rest), int((kept < 6).sum()), int((kept >= 6).sum())
    (4, 3, 1)
    """
    is_share = isinstance(share, int | float | np.floating) and not isinstance(share, bool) and 0 < share < 1
    check("share", share, "a number between 0 and 1", is_share)
    check("seed", seed, "an integer from 0 to 2**32 - 1", is_count(seed, least=0, most=2**32 - 1))
    random = np.random.default_rng(seed)
    classes = np.zeros(examples, int) if labels is None else labels
    kept = []
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        kept.append(members[: round(share * len(members))])
    validation = np.sort(np.concatenate(kept))
    if not 0 < len(validation) < examples:
        given = f"{share:g} of {examples} examples, which is {len(validation)}"
        raise errors.InputError("share", "a share that leaves examples for training and for validation", given)
    return np.setdiff1d(np.arange(examples), validation), validation
