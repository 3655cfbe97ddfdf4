"""Rules for matrix decompositions and triangular systems, by textbook algorithms and by mpmath's.

A matrix is an array (…, rows, columns, points). Where the sign of a result is arbitrary, the sign of LAPACK is taken.
So the results are continuous and equal to those of JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np
from jax.extend.core import JaxprEqn

from functional_nn.gradients.digits.numbers import Values, as_numbers, of_matrix
from functional_nn.gradients.digits.operations import RULES, no_rule
from functional_nn.jaxprs.evaluate import bind


def _transposed(x: Values) -> Values:
    return np.swapaxes(x, -3, -2)


def _symmetric(x: Values, lower: bool = True) -> Values:
    """The symmetric matrix with the lower or the upper triangle of x."""
    read = np.tri(x.shape[-2], dtype=bool)
    return np.where((read if lower else read.T)[..., None], x, _transposed(x))


def _cholesky(equation: JaxprEqn, x: Values) -> Values:
    """L with L Lᵀ = x. Only the lower triangle of x is read."""
    return _by_mpmath(_or_nan(mpmath.cholesky), _symmetric(x))[0]


def _triangular_solve(equation: JaxprEqn, a: Values, b: Values) -> Values:
    """Solves a x = b, or x a = b, by the inverse of a. Only one triangle of a is read."""
    read = np.tri(a.shape[-2], k=-1 if equation.params["unit_diagonal"] else 0, dtype=bool)[..., None]
    a = np.where(read if equation.params["lower"] else _transposed(read), a, as_numbers(0))
    if equation.params["unit_diagonal"]:
        a = a + as_numbers(np.eye(a.shape[-2]))[..., None]
    (inverse,) = _by_mpmath(_or_nan(mpmath.inverse), _transposed(a) if equation.params["transpose_a"] else a)
    return np.einsum("...ijp,...jkp->...ikp", *((inverse, b) if equation.params["left_side"] else (b, inverse)))


def _lu(equation: JaxprEqn, x: Values) -> list[Values]:
    """L and U in one matrix, the row that each step swaps with, and the order of the rows.

    Gaussian elimination, with the rows in the order that JAX chooses in float64.
    """
    pivots, order = (np.moveaxis(found, 0, -1) for found in _in_float64(equation, x)[1:])
    # With rows and columns as the first two axes, a[i, j] holds the element (i, j) of all matrices.
    a = np.moveaxis(np.take_along_axis(x, order[..., None, :], -3), (-3, -2), (0, 1)).copy()
    for k in range(min(a.shape[:2])):
        # A column of zeros has no pivot. Its factors are 0.
        divisor = np.where(a[k, k] == 0, as_numbers(1.0), a[k, k])
        a[k + 1 :, k] = a[k + 1 :, k] / divisor
        a[k + 1 :, k + 1 :] = a[k + 1 :, k + 1 :] - a[k + 1 :, k, None] * a[k, None, k + 1 :]
    return [np.moveaxis(a, (0, 1), (-3, -2)), pivots, order]


def _qr(equation: JaxprEqn, x: Values) -> list[Values]:
    """Q and R by Householder's reflections, with the signs of LAPACK."""
    if equation.params.get("pivoting"):
        raise no_rule("a QR decomposition without pivoting", "one with pivoting")
    rows = x.shape[-3]
    mode = "full" if equation.params["full_matrices"] else "skinny"
    # Q is made of the first columns, as many as there are rows. Then R = Qᵀ x.
    (q,) = _by_mpmath(lambda a: mpmath.qr(a, mode)[:1], x[..., :rows, :])
    q = q * _signs(equation, x, q, 0)
    r = np.einsum("...kip,...kjp->...ijp", q, x)
    upper = np.tri(*r.shape[-2:-4:-1], dtype=bool).T[..., None]
    return [q, np.where(upper, r, as_numbers(0))]


def _eigh(equation: JaxprEqn, x: Values) -> list[Values]:
    """Eigenvectors and eigenvalues of a symmetric matrix, in ascending order."""
    if equation.params.get("subset_by_index") not in (None, (0, x.shape[-2])):
        raise no_rule("all eigenvalues", "a subset of them")
    values, vectors = _by_mpmath(mpmath.eigsy, _symmetric(x, equation.params["lower"]))
    return [vectors * _signs(equation, x, vectors, 0), values[..., 0, :]]


def _svd(equation: JaxprEqn, x: Values) -> list[Values]:
    """Singular values in descending order, U and Vᵀ."""
    rows, columns = x.shape[-3:-1]
    if equation.params.get("subset_by_index") not in (None, (0, min(rows, columns))):
        raise no_rule("all singular values", "a subset of them")
    if rows != columns and equation.params["compute_uv"] and equation.params["full_matrices"]:
        raise no_rule("full_matrices=False: the other columns are arbitrary", "full_matrices=True")
    u, values, v = _by_mpmath(mpmath.svd_r, x)
    if not equation.params["compute_uv"]:
        return [values[..., 0, :]]
    signs = _signs(equation, x, u, 1)
    return [values[..., 0, :], u * signs, v * _transposed(signs)]


def _or_nan(decompose: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A function of a matrix that gives NaN, as JAX does, if the matrix is singular or not positive definite."""

    def decompose_or_nan(a: Any) -> list[Any]:
        try:
            return [decompose(a)]
        except (ValueError, ZeroDivisionError):
            return [a * mpmath.nan]

    return decompose_or_nan


def _by_mpmath(decompose: Callable[..., Any], x: Values) -> list[Values]:
    """The matrices that a function of mpmath, ``decompose(matrix)``, makes of every matrix."""
    matrices = np.moveaxis(x, -1, -3)
    try:
        found = [of_matrix(decompose, m) for m in matrices.reshape(-1, *matrices.shape[-2:])]
    except (ArithmeticError, RuntimeError) as error:
        raise no_rule("a matrix decomposition that converges", "one that does not") from error
    made = (np.stack(same).reshape(*matrices.shape[:-2], *same[0].shape) for same in zip(*found, strict=True))
    return [np.moveaxis(array, -3, -1) for array in made]


def _signs(equation: JaxprEqn, x: Values, vectors: Values, output: int) -> np.ndarray:
    """For each column, the factor 1 or -1 that gives it the sign that JAX computes in float64."""
    by_jax = np.moveaxis(_in_float64(equation, x)[output], 0, -1)
    products = np.sum(by_jax * vectors.astype(np.float64), -3, keepdims=True)
    return np.where(products < 0, -1, 1)


def _in_float64(equation: JaxprEqn, x: Values) -> list[np.ndarray]:
    """What JAX computes, with the points as the first axis."""
    return list(map(np.asarray, bind(equation, [jnp.asarray(np.moveaxis(x.astype(np.float64), -1, 0))])))


RULES |= {
    "cholesky": _cholesky,
    "triangular_solve": _triangular_solve,
    "lu": _lu,
    "qr": _qr,
    "eigh": _eigh,
    "svd": _svd,
}
