"""The functions in PyTorch, and their derivatives by its automatic differentiation.

PyTorch is imported inside the functions, because it may not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from functional_nn.gradients.search.computed import GRADIENT, SECOND, VALUE

if TYPE_CHECKING:
    from torch import Tensor

Function = Callable[["Tensor"], "Tensor"]
"""A function of many points: (points,) to (points,), or (points, n) to (points,) or (points, m)."""
OTHER_NAMES = {
    "log_sigmoid": "logsigmoid",
    "hard_tanh": "hardtanh",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "gelu_tanh": "gelu",
}
"""The names in ``torch.nn.functional`` of activations with another name there."""
OPTIONS = {"gelu_tanh": {"approximate": "tanh"}, "softmax": {"dim": -1}, "log_softmax": {"dim": -1}}
"""The options of activations that need some; all others have their defaults."""


def is_installed() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def activation(name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    if name == "identity":
        return x * 1
    return getattr(functional, OTHER_NAMES.get(name, name))(x, **OPTIONS.get(name, {}))


def masked_activation(name: str, x: Tensor) -> Tensor:
    return with_masked_class(lambda x: activation(name, x)[:, :-1], x)


def with_masked_class(function: Function, x: Tensor) -> Tensor:
    """The function of an input to which the element -∞ is added."""
    import torch

    return function(torch.cat([x, torch.full_like(x[:, :1], -torch.inf)], 1))


def cross_entropy(x: Tensor, smoothing: float = 0.0, weights: Sequence[float] | None = None) -> Tensor:
    """The cross-entropy of the label 0, divided by the weight of its class."""
    import torch

    labels = torch.zeros(len(x), dtype=torch.long)
    of_classes = None if weights is None else torch.tensor(weights, dtype=x.dtype)
    values = torch.nn.functional.cross_entropy(x, labels, of_classes, reduction="none", label_smoothing=smoothing)
    return values if weights is None else values / weights[0]


def divergence(targets: Sequence[float], x: Tensor) -> Tensor:
    import torch

    labels = torch.tensor(targets, dtype=x.dtype).expand_as(x)
    log_probabilities = torch.nn.functional.log_softmax(x, -1)
    return torch.nn.functional.kl_div(log_probabilities, labels, reduction="none").sum(-1)


def binary_cross_entropy(target: float, from_logits: bool, x: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    labels = torch.full_like(x, target)
    if from_logits:
        return functional.binary_cross_entropy_with_logits(x, labels, reduction="none")
    return functional.binary_cross_entropy(x, labels, reduction="none")


def cosine(direction: Sequence[float], x: Tensor) -> Tensor:
    import torch

    labels = torch.tensor(direction, dtype=x.dtype).expand_as(x)
    return 1 - torch.nn.functional.cosine_similarity(x, labels, dim=-1)


def attention(x: Tensor) -> Tensor:
    import torch

    unit = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), -1, -1)
    return torch.nn.functional.scaled_dot_product_attention(x[:, None], unit, unit, scale=1.0)[:, 0]


def rnn_cell(x: Tensor) -> Tensor:
    return x.tanh()


def lstm_cell(hidden: float, memory: float, x: Tensor) -> Tensor:
    import torch

    cell = _with_unit_weights(torch.nn.LSTMCell(4, 1, dtype=x.dtype))
    state = torch.full((len(x), 1), hidden, dtype=x.dtype), torch.full((len(x), 1), memory, dtype=x.dtype)
    return torch.cat(cell(x, state), 1)


def gru_cell(hidden: float, x: Tensor) -> Tensor:
    import torch

    cell = _with_unit_weights(torch.nn.GRUCell(3, 1, dtype=x.dtype))
    with torch.no_grad():
        cell.weight_hh[2] = 1
    return cell(x, torch.full((len(x), 1), hidden, dtype=x.dtype))


def _with_unit_weights(cell):
    """The cell with W = 1 and all other parameters 0. So x is the vector of its gates' arguments."""
    import torch

    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih.copy_(torch.eye(*cell.weight_ih.shape))
    return cell


def derivatives(function: Function, points: np.ndarray, size: int | None) -> dict[str, np.ndarray]:
    """Computes value (points, m), gradient and second derivative (points, m, n) at points (points, n).

    The second derivative is left out for functions for which PyTorch has none.
    """
    import torch

    count, elements = points.shape
    x = torch.tensor(points if size is not None else points[:, 0], requires_grad=True)
    y = function(x).reshape(count, -1)
    outputs = range(y.shape[1])
    gradients = [_gradient(y[:, output], x).reshape(count, elements) for output in outputs]
    found = {VALUE: y, GRADIENT: torch.stack(gradients, 1)}
    try:
        seconds = [_diagonal(gradient, x) for gradient in gradients]
        found[SECOND] = torch.stack(seconds, 1)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
    return {quantity: part.detach().numpy() for quantity, part in found.items()}


def _diagonal(gradient: Tensor, x: Tensor) -> Tensor:
    """∂²y/∂xₖ² (points, n) of the gradient (points, n)."""
    import torch

    columns = [_gradient(gradient[:, k], x).reshape(gradient.shape)[:, k] for k in range(gradient.shape[1])]
    return torch.stack(columns, 1)


def _gradient(y: Tensor, x: Tensor) -> Tensor:
    """∂(Σ y)/∂x. It is 0 if y does not depend on x."""
    import torch

    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)
    return found
