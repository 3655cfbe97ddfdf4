"""The mesh of a sweep: devices in two axes, which share the members of a batch, and the examples of each member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from functional_nn.core.errors import InputError
from functional_nn.core.texts import counted, is_count
from functional_nn.core.trees import PyTree
from functional_nn.core.validation import shown
from functional_nn.storage.arrays import is_key
from functional_nn.training.programs.devices import DATA, MORE_DEVICES, POPULATION


@dataclass(frozen=True)
class SweepMesh:
    """A mesh of ``population`` × ``data`` devices.

    Args:
        population: the number of groups of devices. Each group trains its share of the members.
        data: the number of devices in each group. They share every batch of examples.

    >>> print(SweepMesh(population=4, data=2))
    population=4,data=2
    """

    population: int = 1
    data: int = 1

    def __str__(self) -> str:
        return f"{POPULATION}={self.population},{DATA}={self.data}"

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.population * self.data

    def filled(self, members: int) -> int:
        """A number of members, rounded up so that each group of devices has the same number.

        >>> SweepMesh(population=4).filled(10)
        12
        """
        return self.population * math.ceil(members / self.population)


def as_mesh(mesh: object) -> SweepMesh:
    """The mesh for the argument ``mesh`` of ``sweep``.

    Raises:
        InputError: unless it is a dict of the sizes of known axes, and JAX has enough devices.
    """
    expected = f'a dict such as {{"{POPULATION}": 4, "{DATA}": 2}}, with numbers of devices from 1 on'
    axes = dict(mesh) if isinstance(mesh, Mapping) else {}
    if not axes or not axes.keys() <= {POPULATION, DATA} or not all(is_count(size) for size in axes.values()):
        raise InputError("mesh", expected, shown(mesh))
    sizes = SweepMesh(**{axis: int(size) for axis, size in axes.items()})
    available = jax.local_device_count()
    if sizes.devices > available:
        given = f"{sizes}, which is {sizes.devices}"
        expected = f"at most {counted(available, 'device')}, the number that JAX has"
        raise InputError("mesh", expected, given, MORE_DEVICES.format(sizes.devices))
    return sizes


def taken_apart(states: PyTree, members: Sequence[int]) -> list[PyTree]:
    """The train states of some members, as arrays in the memory of the host; random keys on the first device.

    Args:
        states: those of all members of a batch, along the first axis, which may be divided among devices.
        members: the places of the members in the batch.
    """

    # An index into an array of JAX is a program of its own. For an array on several devices, it is one in which these
    # exchange data. So whole arrays are copied to the host, and indexed there.
    def on_host(leaf: PyTree) -> PyTree:
        return jax.device_put(leaf, jax.local_devices()[0]) if is_key(leaf) else np.asarray(leaf)

    whole = jax.tree.map(on_host, states)

    def of_member(place: int) -> PyTree:
        # A copy, so that the arrays of the whole batch do not stay in memory.
        return jax.tree.map(lambda leaf: leaf[place] if is_key(leaf) else np.array(leaf[place]), whole)

    return [of_member(place) for place in members]


def joined(states: Sequence[PyTree]) -> PyTree:
    """The reverse of ``taken_apart``: the train states of members in one pytree, with members along the first axis."""
    return jax.tree.map(lambda *leaves: (jnp if is_key(leaves[0]) else np).stack(leaves), *states)
