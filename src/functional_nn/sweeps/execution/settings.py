"""The settings that must be equal for a sweep to continue in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from functional_nn.core.errors import inside
from functional_nn.data.dataset import Dataset, Split
from functional_nn.data.preparation import as_split
from functional_nn.storage.arrays import checksum, named_arrays
from functional_nn.storage.files import as_json
from functional_nn.storage.identity import IDENTITY
from functional_nn.sweeps.execution.halving import Halving
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.training.optimizers.precision import Precision, as_precision
from functional_nn.training.random_keys import SETTING_OF_BITS


def comparable_settings(
    members: Sequence[Hyperparameters],
    data: Mapping[str, Dataset | Split],
    *,
    epochs: int,
    batch_size: int,
    precision: str | Precision,
    order_seed: int | None,
    patience: int | None,
    halving: Halving | None,
    keep: bool,
    static: Sequence[str],
    identity: str | Mapping[str, object] | None,
) -> dict[str, object]:
    """The entries of ``sweep.json`` that follow from the arguments of ``sweep``, without a look at the programs.

    Args:
        members: the grid, in which each member has a seed and the name of its data.
        data: the data sets by name.

    The other arguments are those of ``sweep``.
    """
    return {
        "grid": members,
        "data": {name: _digest(part) for name, part in data.items()},
        "epochs": epochs,
        "batch_size": batch_size,
        "precision": [str(part) for part in as_precision(precision)],
        "order_seed": order_seed,
        "patience": patience,
        "halving": None if halving is None else list(halving),
        "keep": keep,
        "static": list(static),
        SETTING_OF_BITS: getattr(jax.config, SETTING_OF_BITS),
        IDENTITY: as_json("identity", identity),
    }


def _digest(data: Dataset | Split) -> str:
    """The checksum of the arrays of a data set; its name and source do not count."""
    with inside("data"):
        return checksum(named_arrays(as_split(data)._asdict()))
