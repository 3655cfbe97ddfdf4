"""``check_vjp`` judges functions, rules and backward passes of other libraries, as the guide describes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functional_nn import check_vjp

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
FACTORS = [1.0, 1.0001]
"""The second one makes a formula wrong."""


def outcome(report, argument):
    """Whether a report passed. If it did not, this argument, and no other, must be wrong."""
    assert report.passed or {verdict.leaf for verdict in report.failures} == {argument}
    return report.passed


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_a_module_of_equinox(factor):
    eqx = pytest.importorskip("equinox")
    params, static = eqx.partition(eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.is_inexact_array)

    def function(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    def hand_vjp(params, x, y_bar):
        bars = eqx.tree_at(lambda p: (p.weight, p.bias), params, (factor * y_bar.T @ x, y_bar.sum(0)))
        return bars, y_bar @ params.weight

    assert outcome(check_vjp(function, hand_vjp, params, X), "params/weight") == (factor == 1)


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_a_module_of_flax_nnx(factor):
    nnx = pytest.importorskip("flax.nnx")
    graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def function(params, x):
        return nnx.merge(graph, params)(x)

    def hand_vjp(params, x, y_bar):
        bars = {"bias": y_bar.sum(0), "kernel": x.T @ y_bar}
        structure = jax.tree.structure(params)
        x_bar = factor * y_bar @ params["kernel"][...].T
        return jax.tree.unflatten(structure, jax.tree.leaves(bars)), x_bar

    assert outcome(check_vjp(function, hand_vjp, params, X), "x") == (factor == 1)


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_a_custom_rule(factor):
    def logsumexp(x):
        return jnp.log(jnp.sum(jnp.exp(x)))

    with_rule = jax.custom_vjp(logsumexp)
    with_rule.defvjp(lambda x: (logsumexp(x), x), lambda x, y_bar: (factor * y_bar * jax.nn.softmax(x),))

    def rule(x, y_bar):
        return jax.vjp(with_rule, x)[1](y_bar)

    assert outcome(check_vjp(logsumexp, rule, X[0]), "x") == (factor == 1)
    # With the custom function itself, automatic differentiation is the rule, and still the arbiter sees the error.
    report = check_vjp(with_rule, rule, X[0], mutants=False)
    assert outcome(report, "x") == (factor == 1)


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_a_function_of_pytorch(factor):
    torch = pytest.importorskip("torch")

    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, y_bar):
            (x,) = ctx.saved_tensors
            y = torch.sigmoid(x)
            return y_bar * (y + factor * x * y * (1 - y))

    def backward(x, y_bar):
        x = torch.tensor(np.asarray(x), requires_grad=True)
        Swish.apply(x).backward(torch.tensor(np.asarray(y_bar)))
        return x.grad.numpy()

    def hand_vjp(x, y_bar):
        return jax.pure_callback(backward, jax.ShapeDtypeStruct(x.shape, x.dtype), x, y_bar, vmap_method="sequential")

    report = check_vjp(jax.nn.silu, hand_vjp, X[:2], second_order=False, mutants=False)
    assert outcome(report, "x") == (factor == 1)
