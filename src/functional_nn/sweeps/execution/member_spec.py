"""The specification of the programs that train the members of a sweep."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from functional_nn.data.dataset import Split
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.programs.recipe import RecipeMaker
from functional_nn.training.programs.spec import ProgramSpec


def member_spec(
    make_recipe: RecipeMaker,
    batch_size: int,
    precision: Precision,
    data: Split,
    hyperparameters: Iterable[str],
    *,
    workers: int,
    members: int | None = None,
    shared_order: bool = False,
) -> ProgramSpec:
    """The specification of the programs of a sweep. Benchmarks of sweeps measure the programs of this specification.

    Args:
        make_recipe: makes a member's recipe from its hyper-parameters.
        batch_size, precision: those of the sweep.
        data: the shapes and types of the data.
        hyperparameters: the names of the traced hyper-parameters, which are numbers.
        workers: the number of threads that run the programs at the same time.
        members: the number of members that one program trains; None: one member, without ``vmap``.
        shared_order: whether all members see the examples in the same order.
    """
    scalar = jax.ShapeDtypeStruct((), np.dtype(precision.parameters))
    return ProgramSpec(
        make_recipe,
        batch_size,
        precision,
        data=data,
        hyperparameters=tuple((name, scalar) for name in hyperparameters),
        members=members,
        shared_order=shared_order,
        in_threads=workers > 1,
    )
