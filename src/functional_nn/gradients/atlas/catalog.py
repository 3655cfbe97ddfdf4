"""The functions in the atlas: activations, elementwise functions, functions of vectors, and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from functional_nn.core.errors import InputError
from functional_nn.core.suggestions import nearest

SIZE = 3
"""The number of elements of all vectors."""
IMPORTS = "import jax, jax.numpy as jnp, optax"


class Entry(NamedTuple):
    """A function of the atlas.

    Args:
        name: its name, such as ``jax.nn.softmax``.
        code: an expression for it, as in the reproductions.
        size: the number of elements of its argument; None for a function of one number.
    """

    name: str
    code: str
    size: int | None

    @property
    def function(self) -> Callable[[jax.Array], jax.Array]:
        """The function itself."""
        return eval(self.code, {"jax": jax, "jnp": jnp, "optax": optax})


NUMBERS = {
    "jax.nn": (
        "relu relu6 sigmoid softplus sparse_plus sparse_sigmoid soft_sign silu log_sigmoid leaky_relu hard_sigmoid "
        "hard_silu hard_tanh elu celu selu gelu squareplus mish"
    ),
    "jnp": (
        "exp exp2 expm1 log log1p log2 log10 sqrt cbrt square reciprocal abs sin cos tan arcsin arccos arctan sinh "
        "cosh tanh arcsinh arccosh arctanh sinc i0 deg2rad"
    ),
    "jax.scipy.special": (
        "entr erf erfc erfcx erfinv erfcinv exp1 expi dawsn gamma gammaln digamma i0 i0e i1 i1e log_ndtr logit ndtr "
        "ndtri spence"
    ),
}
"""Functions of one number, by module."""
WITH_ARGUMENTS = {
    "jax.nn.gelu(x, approximate=False)": "jax.nn.gelu(x, approximate=False)",
    "jax.nn.log1mexp": "jax.nn.log1mexp(x)",
    "jnp.power(x, 2.5)": "jnp.power(x, 2.5)",
    "jnp.power(2.5, x)": "jnp.power(2.5, x)",
    "jnp.hypot(x, 1)": "jnp.hypot(x, 1.0)",
    "jnp.arctan2(x, 1)": "jnp.arctan2(x, 1.0)",
    "jnp.arctan2(1, x)": "jnp.arctan2(1.0, x)",
    "jnp.logaddexp(x, 0)": "jnp.logaddexp(x, 0.0)",
    "jnp.logaddexp2(x, 0)": "jnp.logaddexp2(x, 0.0)",
    "jnp.sqrt(1 + x²)": "jnp.sqrt(1 + x**2)",
    "jax.lax.rsqrt": "jax.lax.rsqrt(x)",
    "jax.scipy.special.kl_div(x, 1)": "jax.scipy.special.kl_div(x, 1.0)",
    "jax.scipy.special.rel_entr(x, 1)": "jax.scipy.special.rel_entr(x, 1.0)",
    "jax.scipy.special.xlogy(x, x)": "jax.scipy.special.xlogy(x, x)",
    "jax.scipy.special.xlog1py(x, x)": "jax.scipy.special.xlog1py(x, x)",
    "jax.scipy.special.boxcox(x, 0.5)": "jax.scipy.special.boxcox(x, 0.5)",
    "jax.scipy.special.boxcox1p(x, 0.5)": "jax.scipy.special.boxcox1p(x, 0.5)",
    "jax.scipy.special.betaln(x, 2)": "jax.scipy.special.betaln(x, 2.0)",
    "jax.scipy.special.beta(x, 2)": "jax.scipy.special.beta(x, 2.0)",
    "jax.scipy.special.poch(x, 2)": "jax.scipy.special.poch(x, 2.0)",
    "jax.scipy.special.multigammaln(x, 2)": "jax.scipy.special.multigammaln(x, 2)",
    "jax.scipy.special.gammainc(2, x)": "jax.scipy.special.gammainc(2.0, x)",
    "jax.scipy.special.gammaincc(2, x)": "jax.scipy.special.gammaincc(2.0, x)",
    "jax.scipy.special.betainc(2, 3, x)": "jax.scipy.special.betainc(2.0, 3.0, x)",
    "jax.scipy.special.polygamma(1, x)": "jax.scipy.special.polygamma(1, x)",
    "jax.scipy.special.zeta(x, 1)": "jax.scipy.special.zeta(x, 1.0)",
    "jax.scipy.special.expn(2, x)": "jax.scipy.special.expn(2, x)",
    "optax.losses.squared_error(x, 0.3)": "optax.losses.squared_error(x, 0.3)",
    "optax.losses.huber_loss(x, 0.3)": "optax.losses.huber_loss(x, 0.3)",
    "optax.losses.log_cosh(x, 0)": "optax.losses.log_cosh(x, jnp.zeros_like(x))",
    "optax.losses.hinge_loss(x, 1)": "optax.losses.hinge_loss(x, 1.0)",
    "optax.losses.sigmoid_binary_cross_entropy(x, 1)": "optax.losses.sigmoid_binary_cross_entropy(x, 1.0)",
    "optax.losses.sigmoid_binary_cross_entropy(x, 0.3)": "optax.losses.sigmoid_binary_cross_entropy(x, 0.3)",
    "optax.losses.sigmoid_focal_loss(x, 1)": "optax.losses.sigmoid_focal_loss(x, jnp.ones_like(x))",
}
"""Functions of one number whose further arguments are fixed, by their names in the atlas."""
VECTORS = {
    "jax.nn.softmax": "jax.nn.softmax(x)",
    "jax.nn.log_softmax": "jax.nn.log_softmax(x)",
    "jax.nn.logsumexp": "jax.nn.logsumexp(x)",
    "jax.nn.logmeanexp": "jax.nn.logmeanexp(x)",
    "jax.nn.standardize": "jax.nn.standardize(x)",
    "jnp.linalg.norm": "jnp.linalg.norm(x)",
    "jnp.linalg.norm(x, 3)": "jnp.linalg.norm(x, 3)",
    "x / jnp.linalg.norm(x)": "x / jnp.linalg.norm(x)",
    "jnp.var": "jnp.var(x)",
    "jnp.std": "jnp.std(x)",
    "jnp.mean": "jnp.mean(x)",
    "jnp.prod": "jnp.prod(x)",
    "jnp.cumsum": "jnp.cumsum(x)",
    "jnp.cumprod": "jnp.cumprod(x)",
    "jax.lax.cumlogsumexp": "jax.lax.cumlogsumexp(x)",
    "optax.losses.softmax_cross_entropy": "optax.losses.softmax_cross_entropy(x, jnp.array([1.0, 0.0, 0.0], x.dtype))",
    "optax.losses.softmax_cross_entropy_with_integer_labels": (
        "optax.losses.softmax_cross_entropy_with_integer_labels(x, jnp.array(0))"
    ),
    "optax.losses.safe_softmax_cross_entropy": (
        "optax.losses.safe_softmax_cross_entropy(x, jnp.array([1.0, 0.0, 0.0], x.dtype))"
    ),
    "optax.losses.poly_loss_cross_entropy": (
        "optax.losses.poly_loss_cross_entropy(x, jnp.array([1.0, 0.0, 0.0], x.dtype))"
    ),
    "optax.losses.kl_divergence(log_softmax(x), …)": (
        "optax.losses.kl_divergence(jax.nn.log_softmax(x), jnp.array([0.2, 0.3, 0.5], x.dtype))"
    ),
    "optax.losses.cosine_distance": "optax.losses.cosine_distance(x, jnp.array([1.0, 2.0, 3.0], x.dtype))",
    "optax.losses.cosine_similarity": "optax.losses.cosine_similarity(x, jnp.array([1.0, 2.0, 3.0], x.dtype))",
    "optax.losses.multiclass_hinge_loss": "optax.losses.multiclass_hinge_loss(x, jnp.array(0))",
    "optax.losses.multiclass_perceptron_loss": "optax.losses.multiclass_perceptron_loss(x, jnp.array(0))",
}
"""Functions of a vector, by their names in the atlas."""


def entries() -> Iterator[Entry]:
    """All functions that the installed versions of JAX and Optax have."""
    for module, names in NUMBERS.items():
        for name in names.split():
            yield from _if_present(Entry(f"{module}.{name}", f"{module}.{name}", None))
    for name, code in WITH_ARGUMENTS.items():
        yield from _if_present(Entry(name, f"lambda x: {code}", None))
    for name, code in VECTORS.items():
        is_plain = code == f"{name}(x)"
        yield from _if_present(Entry(name, name if is_plain else f"lambda x: {code}", SIZE))


def chosen(names: tuple[str, ...]) -> list[Entry]:
    """The functions with these names. A name may be a module, or the last part of a name. No names select all."""
    every = list(entries())
    found: dict[str, Entry] = {}
    for name in names:
        matching = [entry for entry in every if _matches(name, entry.name)]
        if not matching:
            # All names together are two pages of text, so only the nearest one is named.
            meant = nearest(name, [entry.name for entry in every])
            question = f"Did you mean {meant}? " if meant else ""
            remedy = f"{question}A module, such as jax.nn, stands for all of its functions."
            raise InputError("names", f"one of the {len(every)} functions of the atlas", repr(name), remedy)
        found |= {entry.name: entry for entry in matching}
    return list(found.values()) if names else every


def _matches(name: str, entry: str) -> bool:
    plain = entry.partition("(")[0]
    return name in (entry, plain, plain.rpartition(".")[2]) or plain.startswith(f"{name}.")


def _if_present(entry: Entry) -> Iterator[Entry]:
    """The entry, if its module has the function. A lambda names it where it is called."""
    path = entry.code.removeprefix("lambda x: ").partition("(")[0]
    try:
        if all(part.isidentifier() for part in path.split(".")):
            eval(path, {"jax": jax, "jnp": jnp, "optax": optax, "x": None})
    except AttributeError:
        return
    yield entry
