"""Program specifications: everything that the compiled programs of a run or of a sweep depend on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields

import jax

from functional_nn.core.trees import PyTree
from functional_nn.data.dataset import Split
from functional_nn.training.optimizers.precision import Precision
from functional_nn.training.programs.recipe import Hyperparameters, Recipe, RecipeMaker


@dataclass(frozen=True, eq=False)
class ProgramSpec:
    """Everything that the programs of a run are compiled from. Equal specifications share their compiled programs.

    Args:
        recipe: the recipe of a run; or, for the members of a sweep, the function that makes each member's recipe from
            its hyper-parameters. That function is called inside each program, with traced values.
        batch_size, precision: as ``fit`` takes them.
        data: the shapes and types of a split. For a part that is streamed, they are those of one batch.
        hyperparameters: for a sweep, the shapes and types of the traced hyper-parameters by name.
        members: the number of members that one program trains together by ``vmap``. Hyper-parameters, keys and train
            states then have a leading axis; data do not. None: the programs train one model.
        shared_order: whether all members see the examples in the same order. It is drawn from a separate key.
        devices: the number of devices that share each batch.
        streamed: the parts of the data that come batch by batch: any of ``"train"``, ``"test"`` and ``"validation"``.
        in_threads: whether several threads run the programs at the same time.
    """

    recipe: Recipe | RecipeMaker
    batch_size: int
    precision: Precision
    data: Split
    hyperparameters: tuple[tuple[str, jax.ShapeDtypeStruct], ...] = ()
    members: int | None = None
    shared_order: bool = False
    devices: int = 1
    streamed: tuple[str, ...] = ()
    in_threads: bool = False

    @property
    def runs_beside_others(self) -> bool:
        """Whether several of these programs run at the same time: in threads, or on several devices."""
        return self.in_threads or self.devices > 1

    def values(self) -> tuple[object, ...]:
        """All values, with the pytree of data as a tuple. A dict in the data could not be hashed."""
        leaves, structure = jax.tree.flatten(self.data)
        others = (getattr(self, field.name) for field in fields(self) if field.name != "data")
        return (*others, structure, *leaves)

    def __hash__(self) -> int:
        return hash(self.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProgramSpec) and self.values() == other.values()

    def recipe_for(self, hyperparameters: Hyperparameters) -> Recipe:
        """The recipe inside a program."""
        if isinstance(self.recipe, Recipe):
            return self.recipe
        return self.recipe(hyperparameters)


def shapes_of(tree: PyTree) -> PyTree:
    """The pytree with the shape and type of each array in the place of the array."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


def shapes_key(tree: PyTree) -> tuple[Hashable, ...]:
    """The structure, shapes and types of a pytree in a form that a dict can have as a key."""
    leaves, structure = jax.tree.flatten(shapes_of(tree))
    return structure, *leaves


def with_batches_of(shapes: Split, examples: int) -> Split:
    """The shapes of a split with this number of training examples: those of a stream's batch in all processes."""

    def of_all(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((examples, *array.shape[1:]), array.dtype)

    train_x, train_labels = jax.tree.map(of_all, (shapes.train_x, shapes.train_labels))
    return shapes._replace(train_x=train_x, train_labels=train_labels)
