"""Two versions of one forward pass: for JAX's automatic differentiation, and for a backward pass by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from functional_nn.core.layer import Forward, Layer, Params, Residuals, State
from functional_nn.core.masked import Value


@dataclass(frozen=True)
class TwoForwardPasses:
    """One function in two versions that differ in speed and rounding only.

    Calling it calls ``differentiable``. ``with_hand_vjp`` takes ``by_hand`` instead, since there JAX does not
    differentiate the code, and what is fastest to compute may be slow to differentiate.
    """

    differentiable: Forward
    by_hand: Forward

    def __call__(
        self, params: Params, state: State, x: Value, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Value, State, Residuals]:
        return self.differentiable(params, state, x, train=train, key=key)


def for_hand_vjp(layer: Layer) -> Layer:
    """The layer with the version of its forward pass that JAX does not differentiate, where it has one."""
    if isinstance(layer.forward, TwoForwardPasses):
        return layer._replace(forward=layer.forward.by_hand)
    return layer


def composed_forward(make_forward: Callable[[tuple[Layer, ...]], Forward], layers: tuple[Layer, ...]) -> Forward:
    """A combinator's forward pass, ``make_forward(layers)``, in two versions where a layer inside has two."""
    by_hand = tuple(for_hand_vjp(layer) for layer in layers)
    if all(one is other for one, other in zip(layers, by_hand, strict=True)):
        return make_forward(layers)
    return TwoForwardPasses(make_forward(layers), make_forward(by_hand))
