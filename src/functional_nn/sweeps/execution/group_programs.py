"""The compiled programs and the data of a static group, on every device that is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import jax
import jax.numpy as jnp

from functional_nn.core.errors import inside
from functional_nn.core.layer import Params, State
from functional_nn.data.dataset import Dataset, Split
from functional_nn.sweeps.execution.member_spec import member_spec
from functional_nn.sweeps.execution.static_groups import StaticGroup
from functional_nn.sweeps.grid.grid import Hyperparameters
from functional_nn.training.data_for_network import data_for_network
from functional_nn.training.evaluate import evaluated_params
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.programs.cache import compiled_programs
from functional_nn.training.programs.compile import CompiledPrograms
from functional_nn.training.programs.devices import Device, computing_on
from functional_nn.training.programs.spec import shapes_of
from functional_nn.training.state import TrainState


class GroupPrograms:
    """The compiled programs of a static group and its data, on every device that is used.

    Args:
        group: the static group.
        grid: the hyper-parameters of all members of the sweep.
        data: data sets by name.
        precision: the precision of the sweep.
    """

    def __init__(
        self,
        group: StaticGroup,
        grid: Sequence[Hyperparameters],
        data: Mapping[str, Dataset | Split],
        precision: Precision,
    ):
        self.group = group
        self._precision = precision
        self.splits: dict[str, Split] = {}
        for name in dict.fromkeys(grid[number]["data"] for number in group.members):
            with inside(name) if name else nullcontext():
                self.splits[name] = data_for_network(group.recipe.net, group.recipe.loss, data[name])
        self.compilations = 0
        self.seconds = 0.0
        self._programs: dict[Device, CompiledPrograms] = {}
        self._data: dict[tuple[Device, str], Split] = {}
        self._copying = threading.Lock()

    def compile(self, devices: Sequence[Device], members_at_once: int | None, shared_order: bool) -> CompiledPrograms:
        """Compiles the programs for the device of each worker; returns those on the first one."""
        spec = member_spec(
            self.group.make_recipe,
            self.group.batch_size,
            self._precision,
            shapes_of(next(iter(self.splits.values()))),
            self.group.traced,
            workers=len(devices),
            members=members_at_once,
            shared_order=shared_order,
        )
        for device in dict.fromkeys(devices):
            clock = time.perf_counter()
            with computing_on(device):
                self._programs[device], compiled_now = compiled_programs(spec)
            if compiled_now:
                self.compilations += 1
                self.seconds += time.perf_counter() - clock
        return self._programs[devices[0]]

    def on(self, device: Device) -> CompiledPrograms:
        """The programs on a device."""
        return self._programs[device]

    def data_on(self, device: Device, name: str) -> Split:
        """A data set on a device; it is copied there once."""
        # Workers are threads: without the lock, two of them could copy the same data at the same time.
        with self._copying:
            if (device, name) not in self._data:
                self._data[device, name] = jax.device_put(self.splits[name], device)
            return self._data[device, name]

    def result_of(self, train_state: TrainState) -> tuple[Params, State]:
        """The parameters and the state of a member for the result: the parameters are those that were evaluated."""
        eval_params = self.group.recipe.eval_params
        if eval_params is not None:
            # Members of one program have arrays of NumPy, whose arithmetic has other rules for types than JAX's.
            train_state = jax.tree.map(jnp.asarray, train_state)
        return evaluated_params(train_state, eval_params), train_state.state

    @property
    def loss_name(self) -> str:
        """The name of the loss, for the identity of the sweep."""
        loss = self.group.recipe.loss
        return str(getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__)))
