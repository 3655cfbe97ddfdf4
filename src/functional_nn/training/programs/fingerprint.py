"""Fingerprints of networks, losses and optimizers, made from the programs that JAX traces from them.

Python functions cannot be compared with each other, but traced programs can. The text and the constants of a program
contain everything that it computes, also the learning rate. Only Python functions that a program calls
(``jax.pure_callback``) stay unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr
from jax.typing import ArrayLike

from functional_nn.core.validation import is_array
from functional_nn.jaxprs.inner_programs import TracedProgram
from functional_nn.storage.arrays import add_to_digest, as_stored
from functional_nn.training.optimizers.wrapping import update_with
from functional_nn.training.programs.devices import cores
from functional_nn.training.programs.recipe import Hyperparameters
from functional_nn.training.programs.spec import ProgramSpec
from functional_nn.training.state import TrainState

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The memory address of a Python object in a program's text. It differs between processes."""


def fingerprint(*traced: ClosedJaxpr) -> str:
    """The SHA-256 of traced programs: of their text, and of the arrays that they contain.

    >>> double, triple = (jax.make_jaxpr(lambda x, factor=factor: factor * x)(1.0) for factor in (2.0, 3.0))
    >>> fingerprint(double) == fingerprint(triple)
    False
    """
    digest = hashlib.sha256()
    for program in traced:
        # In a terminal and in a notebook, JAX would put colors into the text.
        digest.update(ADDRESS.sub("", program.pretty_print(use_color=False)).encode())
        # The text names constants and does not contain their numbers.
        for constant in _constants(program):
            add_to_digest(digest, as_stored(constant if is_array(constant) else np.asarray(constant)))
    return digest.hexdigest()


def fingerprints_of_parts(
    spec: ProgramSpec,
    hyperparameters: Hyperparameters,
    train_state: TrainState,
    *,
    start: ClosedJaxpr,
    outputs: ClosedJaxpr,
    steps: Iterable[ClosedJaxpr],
) -> dict[str, str]:
    """A digest of what each part of a recipe computes, by the name that an error message uses for the part.

    Args:
        spec: the specification with the recipe.
        hyperparameters, train_state: the shapes and types of one model's.
        start: the traced program of the initial values.
        outputs: a traced program that computes the network's output and the loss.
        steps: the traced programs that train.
    """
    params, optimizer_state = train_state.params, train_state.optimizer_state

    def update(hyperparameters, params, optimizer_state):
        """An update with the parameters in place of the gradient, their squares in place of the loss."""

        def loss(params, *, obj_fn=None, grad_fn=None):
            return sum((jnp.sum(jnp.square(leaf.astype(float))) for leaf in jax.tree.leaves(params)), jnp.zeros(()))

        value, gradient = loss(params), lambda params, step=0: jax.grad(loss)(params)
        extra = {"value": value, "grad": params, "value_fn": loss, "obj_fn": loss, "grad_fn": gradient}
        optimizer = spec.recipe_for(hyperparameters).optimizer
        return update_with(optimizer, params, optimizer_state, params, extra)

    def penalty(hyperparameters, params):
        function = spec.recipe_for(hyperparameters).penalty
        return 0.0 if function is None else function(params)

    return {
        "initial values": fingerprint(start),
        "network or loss": fingerprint(outputs),
        "optimizer": fingerprint(jax.make_jaxpr(update)(hyperparameters, params, optimizer_state)),
        "penalty": fingerprint(jax.make_jaxpr(penalty)(hyperparameters, params)),
        "train step": fingerprint(*steps),
    }


def surroundings() -> dict[str, str | int]:
    """What else the text of a program depends on: fingerprints are comparable only if all of this is equal."""
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, optax)}
    return {**versions, "device": jax.local_devices()[0].device_kind, "cores": cores()}


def _constants(program: TracedProgram) -> Iterator[ArrayLike]:
    """The arrays in a program and in the programs inside it, in the order of its text."""
    yield from getattr(program, "consts", ())
    for equation in getattr(program, "jaxpr", program).eqns:
        for parameter in equation.params.values():
            # Some operations, such as cond, have several programs in a tuple. A program may be closed, with constants,
            # or not.
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(inner, "eqns") or hasattr(getattr(inner, "jaxpr", None), "eqns"):
                    yield from _constants(inner)
