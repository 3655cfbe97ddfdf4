"""Relative errors of derivatives, which find wrong values in the tails of a function.

Usually, errors are measured in units of the sum of absolute terms. If the terms cancel, this sum is much larger than
the derivative. In the tails of tanh, for example, the terms of 1 - tanh²(x) are 1 and 1, and the derivative is
4 exp(-2|x|). A formula could be wrong there by any factor. So if the terms are much larger, the error is also compared
with the derivative itself.

Even a right formula loses digits if the derivative is ill-conditioned, which means that it changes much when the last
digits of the inputs change. The arbiter measures this change. The error is divided by the sum of the derivative and
this change.
"""

from __future__ import annotations

import numpy as np

from functional_nn.gradients.compare.compared_values import ComparedValues
from functional_nn.gradients.compare.problem import Function, Leaves
from functional_nn.gradients.references.arbiter import ReferenceJacobian, sensitivity

ALLOWED = 2.0**-26
"""The relative error allowed in float64: half of the digits."""
USUALLY_ALLOWED = 1e-13
"""The error that is allowed in float64, relative to the sum of absolute terms."""
SHARE_OF_SENSITIVITY = 2.0**-20
"""The factor of the sensitivity in the unit of the error. So 64 roundings of each input are allowed."""
SMALLEST = float(np.finfo(np.float64).tiny)


def relative_values(
    function: Function,
    leaves: Leaves,
    number: int,
    reference: ReferenceJacobian,
    values: ComparedValues,
) -> ComparedValues | None:
    """The values with the size of the derivative as their scale. Only elements that need this measure count.

    An element needs this measure if the usual one allows a larger relative error than ``ALLOWED``. It must be a normal
    number that the arbiter knows. Returns None if there is no such element.

    Args:
        function: the function that is differentiated.
        leaves: the point.
        number: the index of the leaf.
        reference: the arbiter's derivatives.
        values: the values with the usual scale.
    """
    size = np.abs(values.arbiter)
    is_known = np.zeros(size.shape, bool)
    is_known[:, reference.columns[number]] = True
    with np.errstate(invalid="ignore"):
        is_known &= (size >= SMALLEST) & (values.arbiter_error <= ALLOWED * size)
        # The comparisons are negated, so that a scale or an error of NaN counts too.
        counted = is_known & ~(USUALLY_ALLOWED * values.scale <= ALLOWED * size)
    if not counted.any():
        return None
    scale = size.copy()
    with np.errstate(invalid="ignore"):
        errors = [np.abs(found - values.arbiter) for found in (values.hand, values.automatic)]
        is_wrong = counted & ~((errors[0] <= ALLOWED * size) & (errors[1] <= ALLOWED * size))
    # The condition of the derivative matters only if an error is too large. Computing it takes as long as computing the
    # derivative itself.
    columns = np.flatnonzero(is_wrong.any(0))
    if len(columns):
        scale[:, columns] += SHARE_OF_SENSITIVITY * sensitivity(function, leaves, number, columns)
    return values.only_at(counted & np.isfinite(scale), scale)
