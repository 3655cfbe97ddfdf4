"""Arguments of ``benchmark`` and ``explain`` that are refused."""

import jax.numpy as jnp
import pytest

import functional_nn as fnn
from functional_nn.core.errors import InputError


@pytest.mark.parametrize("argument", ["text", jnp.sin, {"a": object()}, {"activation": jnp.tanh}])
def test_what_is_no_pytree_of_arrays_is_refused(argument):
    for measure in (fnn.benchmark, fnn.explain):
        with pytest.raises(InputError, match=r"argument 0.*Bind other values to the function"):
            measure(jnp.sin, argument)
