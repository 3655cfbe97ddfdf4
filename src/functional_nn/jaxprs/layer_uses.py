"""The layers of a network in the order in which they run, read from the traced program of its forward pass."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.extend.core import ClosedJaxpr
from jax.typing import DTypeLike

from functional_nn.core import trees
from functional_nn.core.layer import MARK, Layer, Params, child_forward, with_key_if_needed
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.core.shapes import Shape, Shapes, shape_of, traced
from functional_nn.jaxprs.counts import flops_by_scope, flops_of
from functional_nn.jaxprs.walk import array_type, equations, layer_of, live


@dataclass
class LayerUse:
    """One use of a layer in the program: it ends at the layer's mark.

    Args:
        scope: the names of the layers around it and its own, separated by "/".
        read_shape: the shape of the first array that its first equation reads, without the batch axis; None if it has
            no equations. For a layer of one equation, such as ``flatten``, it is the shape of the input.
        output_shape: the shape of its output, without the batch axis.
        flops: the operations of its forward pass.
        parameters: the paths of the parameters that it uses.
        has_own_path: whether these are all below the scope.
        loops: the number of loops around it.
        repeats: how often they run it.
    """

    scope: str
    read_shape: Shape | None
    output_shape: Shape
    flops: int
    parameters: tuple[str, ...]
    has_own_path: bool
    loops: int
    repeats: int

    @property
    def name(self) -> str:
        """The path of the parameters, if it ends with the layer's name and is not the scope; else the scope."""
        if self.has_own_path or not self.parameters:
            return self.scope
        folder = posixpath.commonpath([posixpath.dirname(path) for path in self.parameters])
        return folder if posixpath.basename(folder) == posixpath.basename(self.scope) else self.scope


def trace_layers(net: Layer, in_shape: Shapes, dtype: DTypeLike | None = None) -> tuple[ClosedJaxpr, Params]:
    """The program of the forward pass in evaluation, and the shapes of the parameters. Nothing is computed.

    The parameters are the program's first inputs, in the order of their paths. The whole network is marked as a layer,
    so it is the last use, and its name is the first part of all scopes.
    """
    params, state = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))

    def marked(key):
        def forward(params, state, x):
            return child_forward(net.name, net, {net.name: params}, {net.name: state}, x, train=False, key=key)[0]

        return forward

    # Convolutions count as such, and not as the products by which a CPU computes them.
    with tracing_for(SEVERAL_PLATFORMS):
        program = traced(
            lambda x: with_key_if_needed(lambda key: jax.make_jaxpr(marked(key))(params, state, x)), in_shape, dtype
        )
    return program, params


def layer_uses(program: ClosedJaxpr, paths: Sequence[str]) -> list[LayerUse]:
    """The layers of a traced program, in the order in which they end. A layer that is used several times is one.

    A combinator names its layers as it names their parameters, so a scope is the path of its parameters. A layer that
    is written by hand around other layers may call them by other names. Then two layers may have one scope, and their
    parameters are those that their equations read.
    """
    uses = _uses(program, paths)
    written_by_hand = {posixpath.dirname(use.scope) for use in uses if use.parameters and not use.has_own_path}
    flops: Counter[str] = Counter()
    for scope, count in flops_by_scope(live(program)).items():
        flops[layer_of(scope)[0]] += count
    layers: dict[tuple[str, int | tuple[str, ...]], LayerUse] = {}
    for number, use in enumerate(uses):
        if posixpath.dirname(use.scope) not in written_by_hand:
            use.flops = sum(count for inner, count in flops.items() if trees.is_under(inner, use.scope))
            layers.setdefault((use.scope, ()), use)
        elif (key := (use.scope, use.parameters or number)) in layers:
            layers[key].flops += use.flops
        else:
            layers[key] = use
    # A layer that reads the parameters of an earlier one, which is not inside it, shares them. They count once.
    seen: dict[str, str] = {}
    for layer in layers.values():
        if not layer.has_own_path:
            shared = {path for path in layer.parameters if not trees.is_under(seen.get(path, layer.scope), layer.scope)}
            layer.parameters = tuple(path for path in layer.parameters if path not in shared)
        seen |= dict.fromkeys(layer.parameters, layer.scope)
    return list(layers.values())


def _uses(program: ClosedJaxpr, paths: Sequence[str]) -> list[LayerUse]:
    """Every mark of a layer in a program, with the operations and the parameters since the last one of its scope."""
    # The parameters are the first inputs of the program, in the order of the paths. The function of ``compose`` is
    # traced by ``jax.vjp``, which writes its own name into the scopes.
    steps = [step._replace(scope=layer_of(step.scope)[0]) for step in equations(program, len(paths))]
    uses: list[LayerUse] = []
    ends: dict[str, int] = {}
    for end, mark in enumerate(steps):
        if not str(mark.equation.params.get("name", "")).startswith(MARK):
            continue  # only the marks at the ends of layers are uses
        scope = mark.scope
        # If a layer is used again, only what comes after the mark of its last use belongs to this use.
        inside = [step for step in steps[ends.get(scope, 0) : end] if trees.is_under(step.scope, scope)]
        ends[scope] = end + 1
        own = tuple(path for path in paths if trees.is_under(path, scope))
        read = sorted(frozenset[int]().union(*(step.read for step in inside)))
        # The first array that the first equation reads has a batch axis.
        shapes = [array_type(value).shape for value in inside[0].equation.invars] if inside else []
        read_shape = next((shape[1:] for shape in shapes if shape), None)
        flops = sum(step.repeats * flops_of(step.equation) for step in inside)
        output_shape, used = shape_of(array_type(mark.equation.outvars[0])), own or tuple(paths[i] for i in read)
        uses.append(LayerUse(scope, read_shape, output_shape, flops, used, bool(own), mark.loops, mark.repeats))
    return uses
