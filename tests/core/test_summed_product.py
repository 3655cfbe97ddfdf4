"""The sum over a batch's rows that gives the gradient of a weight."""

import jax
import numpy as np
import pytest

from functional_nn.core.products import summed_product


@pytest.mark.parametrize("sizes", [(3, 5), (9, 2), (2, 9), (40, 1)])
def test_both_orders_are_the_same_product(sizes):
    """Wide rows and few columns are multiplied the other way round, and the result is transposed."""
    left, right = sizes
    keys = jax.random.split(jax.random.key(0))
    rows, columns = (jax.random.normal(key, (4, 6, size)) for key, size in zip(keys, sizes, strict=True))
    expected = np.einsum("bti,btj->ij", *(np.asarray(part, np.float64) for part in (rows, columns)))

    np.testing.assert_allclose(summed_product(rows, columns), expected, rtol=1e-5, atol=1e-5)
    # The way is visible in the program: only a result that is transposed has a barrier.
    reversed_order = "optimization_barrier" in str(jax.make_jaxpr(summed_product)(rows, columns))
    assert reversed_order == (24 * left > 24 * right + left * right)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_under_vmap(dtype):
    """jaxlib ended the process when a product of three axes was transposed by its layout."""
    with jax.enable_x64(dtype == np.float64):
        keys = jax.random.split(jax.random.key(0))
        rows, columns = (jax.random.normal(key, (3, 7, size), dtype) for key, size in zip(keys, (9, 2), strict=True))
        result = jax.jit(jax.vmap(summed_product))(rows, columns)

    expected = np.einsum("kbi,kbj->kij", np.asarray(rows, np.float64), np.asarray(columns, np.float64))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
