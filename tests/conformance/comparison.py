"""What a case is, and how far our layer and PyTorch's are from each other, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conformance.weight_maps import Map, nothing

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit

torch = pytest.importorskip("torch", reason="the extra 'conformance' is not installed")
torch.set_num_threads(1)  # small arrays: more threads would wait for each other

BATCH = 3


def same(x: Any) -> Any:
    return x


class Case(NamedTuple):
    """A layer and what PyTorch has for it.

    Args:
        name: what the tests call it.
        ours: the layer.
        theirs: ``theirs(*inputs)``, a module or a function of tensors.
        shapes: those of PyTorch's floating-point inputs.
        weights: from the module's parameters to ours; see ``weight_maps``.
        x: from PyTorch's inputs to our floating-point ones; linear.
        complete: puts masks and integers to these.
        y: from our output to PyTorch's; linear.
        train: whether both are in training.
        state: from the module's buffers to our state.
        steps: how often the two run, each time on a new input.
    """

    name: str
    ours: fnn.Layer
    theirs: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    weights: Map = nothing
    x: Callable[..., Any] = same
    complete: Callable[[Any], Any] = same
    y: Callable[[Any], Any] = same
    train: bool = True
    state: Map = nothing
    steps: int = 1


class Wrapped(torch.nn.Module):
    """A module that is called in another way; its parameters keep their names."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def named_parameters(self, *arguments, **options):
        return self.module.named_parameters(*arguments, **options)


def worst(ours: Any, theirs: Any) -> float:
    """The largest difference in a pytree, relative to the largest number of its leaf where that is above 1."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    deviations = [0.0]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, f"{a.shape} and {b.shape}"
        assert a.dtype == b.dtype == np.float64
        deviations.append(float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))))
    assert np.all(np.isfinite(deviations))
    return max(deviations)


def deviations(case: Case, seed: int = 0) -> dict[str, float]:
    """How far outputs, states, parameters' gradients and inputs' gradients are from PyTorch's, for a random cotangent.

    All are compared in PyTorch's layout: our cotangents go through the transposes of the maps.
    """
    random = np.random.default_rng(seed)
    module = case.theirs if isinstance(case.theirs, torch.nn.Module) else torch.nn.Identity()
    module.double().train(case.train)
    _draw(module, random)
    state, found = case.state(_buffers(module)), dict.fromkeys(("y", "state", "params_bar", "x_bar"), 0.0)
    for _ in range(case.steps):
        inputs = [random.normal(size=shape) for shape in case.shapes]
        weights = {name: parameter.detach().numpy().copy() for name, parameter in module.named_parameters()}
        y, y_bar, params_bar, x_bar = _theirs(case, module, inputs, random)
        ours = _ours(case, weights, state, inputs, y_bar)
        state = ours[1]
        theirs = y, case.state(_buffers(module)), params_bar, x_bar
        for part, a, b in zip(found, ours, theirs, strict=True):
            found[part] = max(found[part], worst(a, b))
    return found


def _draw(module, random) -> None:
    """Random numbers for every parameter and every running statistic: no zeros or ones to hide behind."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(random.uniform(-1, 1, tensor.shape)))
        for name, buffer in module.named_buffers():
            if name == "running_var":
                buffer.abs_().add_(0.5)


def _buffers(module) -> dict[str, Any]:
    return {name: jnp.asarray(buffer.numpy().copy()) for name, buffer in module.named_buffers()}


def _theirs(case, module, inputs, random):
    """PyTorch's outputs, a random cotangent for them, and what its automatic differentiation makes of that."""
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    y = case.theirs(*tensors)
    leaves, structure = jax.tree.flatten(y)
    y_bar = [random.normal(size=tuple(leaf.shape)) for leaf in leaves]
    parameters = dict(module.named_parameters())
    for tensor in (*tensors, *parameters.values()):
        tensor.grad = None
    torch.autograd.backward(leaves, [torch.from_numpy(leaf) for leaf in y_bar])
    params_bar = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
    y = jax.tree.unflatten(structure, [leaf.detach().numpy() for leaf in leaves])
    return y, jax.tree.unflatten(structure, y_bar), params_bar, [tensor.grad.numpy() for tensor in tensors]


def _ours(case, weights, state, inputs, y_bar):
    """Our outputs, new state, and the hand-derived pullback's cotangents, in PyTorch's layout."""
    example = case.complete(case.x(*(jnp.asarray(x) for x in inputs)))
    key = jax.random.key(0)
    expected = jax.eval_shape(lambda: case.ours.init(key, _shape_of(example)))
    given = jax.eval_shape(case.weights, weights), state
    assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, expected)

    def both(weights, state, inputs, y_bar):
        params, pull_params = jax.vjp(case.weights, weights)
        x, pull_x = jax.vjp(case.x, *inputs)
        y, state, pullback = case.ours.vjp(params, state, case.complete(x), train=case.train, key=key)
        leaves, join = _floating(y)
        y, pull_y = jax.vjp(lambda leaves: case.y(join(leaves)), leaves)
        params_bar, x_bar = pullback(_floating(join(leaves))[1](pull_y(y_bar)[0], masks=False))
        x_bar = jax.tree.unflatten(jax.tree.structure(x), jax.tree.leaves(x_bar))
        return y, state, pull_params(params_bar)[0], list(pull_x(x_bar))

    return quick_jit(both)(weights, state, inputs, y_bar)


def _shape_of(x):
    if isinstance(x, fnn.Masked):
        return x.values.shape[1:]
    return tuple(_shape_of(part) for part in x) if isinstance(x, tuple) else x.shape[1:]


def _floating(tree):
    """The floating-point leaves, and ``join(leaves)``, which puts others back to them, or None in their place."""
    leaves, structure = jax.tree.flatten(tree)

    def join(chosen, *, masks=True):
        chosen = iter(chosen)
        rest = [
            next(chosen) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf if masks else None for leaf in leaves
        ]
        return jax.tree.unflatten(structure, rest)

    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)], join
