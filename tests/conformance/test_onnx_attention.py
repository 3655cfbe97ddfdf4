"""ONNX's attention operator by ``dot_product_attention``: its masks, windows, caches and outputs."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functional_nn as fnn
from functional_nn.jaxprs.xla_options import quick_jit

onnx = pytest.importorskip("onnx", reason="the extra 'conformance' is not installed")
TOLERANCES = {"float32": (1e-5, 5e-6), "float16": (2e-3, 1e-3), "bfloat16": (2e-2, 1e-2)}
"""Relative and absolute. Half precision is rounded at other places."""


def test_attention_agrees():
    """All tests that ONNX ships; a newer version may have more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the making of the expected outputs overflows in places
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases("Attention")
    # Those of a function's body have the same data.
    cases = [case for case in cases if not (case.name.endswith("_expanded") or "_expanded_ver" in case.name)]
    assert len(cases) >= 93
    for case in cases:
        (node,) = case.model.graph.node
        schema, (given, outputs) = onnx.defs.get_schema("Attention", domain=node.domain), case.data_sets[0]
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        expected = by_name(schema.outputs, node.output, outputs)
        found = attention(attributes, by_name(schema.inputs, node.input, given))
        assert found.keys() & expected.keys()
        for name in found.keys() & expected.keys():
            relative, absolute = TOLERANCES[str(expected[name].dtype)]
            ours, theirs = (np.asarray(value).astype(np.float64) for value in (found[name], expected[name]))
            np.testing.assert_allclose(ours, theirs, relative, absolute, err_msg=f"{case.name}: {name}")


def by_name(parameters, used, values):
    """Values under the names that the operator's definition gives them; an empty name is one left out."""
    there = [parameter.name for parameter, name in zip(parameters, used, strict=False) if name]
    return dict(zip(there, values, strict=False))


class Problem(NamedTuple):
    """An attention problem in this package's terms: arrays (batch, time, heads, size), and options of the layer."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    mask: jax.Array | None
    options: dict[str, Any]


def attention(attributes, inputs):
    """All outputs that the operator has: Y, the cache, and the scores or weights."""
    q, k, v = heads_after_time(attributes, inputs)
    k, v = with_past(inputs, "key", k), with_past(inputs, "value", v)
    mode = attributes.get("qk_matmul_output_mode", 0)
    problem = stated(attributes, inputs, q, k, v)
    y = attend(shortened(problem, attributes, inputs))
    packed = inputs["Q"].ndim == 3
    found = {
        "Y": y.reshape(*y.shape[:2], -1) if packed else jnp.swapaxes(y, 1, 2),
        "present_key": jnp.swapaxes(k, 1, 2),
        "present_value": jnp.swapaxes(v, 1, 2),
    }
    weights_or_scores = weights(problem) if mode == 3 else scores(problem, mode)
    return found | {"qk_matmul_output": weights_or_scores.astype(q.dtype)}


def heads_after_time(attributes, inputs):
    """Queries, keys and values as (batch, time, heads, size); ONNX has (batch, heads, time, size), or packed heads."""
    q, k, v = (jnp.asarray(inputs[name]) for name in "QKV")
    if q.ndim == 4:
        return [jnp.swapaxes(part, 1, 2) for part in (q, k, v)]
    heads = attributes["q_num_heads"], attributes["kv_num_heads"], attributes["kv_num_heads"]
    return [part.reshape(*part.shape[:2], count, -1) for part, count in zip((q, k, v), heads, strict=True)]


def with_past(inputs, name, new):
    """The cached keys or values before the new ones."""
    if f"past_{name}" not in inputs:
        return new
    return jnp.concatenate([jnp.swapaxes(jnp.asarray(inputs[f"past_{name}"]), 1, 2), new], axis=1)


def first_place(inputs, queries_time):
    """The place of the first query among the keys, (batch or 1,): after the past, or before the end of real keys."""
    if "past_key" in inputs:
        return np.array([inputs["past_key"].shape[2]])
    if "nonpad_kv_seqlen" in inputs:
        return inputs["nonpad_kv_seqlen"] - queries_time
    return np.array([0])


def stated(attributes, inputs, q, k, v):
    """The operator's problem, with everything that hides keys in one mask."""
    (batch, time, heads, _), keys_time = q.shape, k.shape[1]
    place = first_place(inputs, time)[:, None, None, None] + np.arange(time)[:, None]
    j = np.arange(keys_time)
    left, right = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    mask = np.ones((batch, 1, time, keys_time), bool)
    if attributes.get("is_causal"):
        mask &= j <= place
    if left >= 0:
        mask &= j >= place - left
    if right >= 0:
        mask &= j <= place + right
    if "nonpad_kv_seqlen" in inputs:
        mask &= j < inputs["nonpad_kv_seqlen"][:, None, None, None]
    bias = None
    if "attn_mask" in inputs:
        given = jnp.asarray(inputs["attn_mask"])
        hidden = False if given.dtype == bool else -jnp.inf
        missing = [(0, 0)] * (given.ndim - 1) + [(0, keys_time - given.shape[-1])]
        given = jnp.pad(given, missing, constant_values=hidden)
        given = jnp.broadcast_to(given[(None,) * (4 - given.ndim)], (batch, heads, time, keys_time))
        if given.dtype == bool:
            mask = mask & given
        else:
            bias = given
    options = {"scale": attributes.get("scale"), "score_cap": attributes.get("softcap") or None}
    return Problem(q, k, v, bias, jnp.asarray(mask), options)


def shortened(problem, attributes, inputs):
    """The same problem by the options ``causal`` and ``window``, if all examples have as many keys.

    ONNX puts the first query at the first key if there is no past, and this package puts the last query at the last
    key. Causal queries do not see what is after them, so keys after the last query are cut off; then both are the same.
    """
    is_ragged = "nonpad_kv_seqlen" in inputs
    if is_ragged or not attributes.get("is_causal"):
        return problem
    cut = int(first_place(inputs, problem.q.shape[1])[0]) + problem.q.shape[1]
    if cut > problem.k.shape[1]:  # the last queries are after the last key
        return problem
    left = attributes.get("left_window_size", -1)
    given = inputs.get("attn_mask")
    is_masked = given is not None and given.dtype == bool
    return Problem(
        problem.q,
        problem.k[:, :cut],
        problem.v[:, :cut],
        None if problem.bias is None else problem.bias[..., :cut],
        problem.mask[..., :cut] if is_masked else None,
        {**problem.options, "causal": True, "window": left + 1 if left >= 0 else None},
    )


def attend(problem):
    x = tuple(part for part in problem[:-1] if part is not None)
    layer = fnn.dot_product_attention(**problem.options)
    return quick_jit(lambda x: layer.apply({}, {}, x, train=False)[0])(x)


def weights(problem):
    """p, (batch, heads, time, keys): the output for values that are the rows of the identity matrix."""
    batch, keys_time, groups, _ = problem.k.shape
    unit = jnp.eye(keys_time, dtype=problem.v.dtype)[None, :, None]
    p = attend(problem._replace(v=jnp.broadcast_to(unit, (batch, keys_time, groups, keys_time))))
    return jnp.swapaxes(p, 1, 2)


def scores(problem, mode):
    """The scores: plain (mode 0), capped (1), or with bias and mask (2).

    A key of zeros is put before the others. Its score is 0, so the others' are sᵢⱼ = log pᵢⱼ - log pᵢ₀.
    """
    options = problem.options if mode else {**problem.options, "score_cap": None}
    q, k, v = (part.astype(jnp.float32) for part in problem[:3])

    def after_a_zero(array, axis, value=0):
        widths = [(0, 0)] * array.ndim
        widths[axis] = 1, 0
        return jnp.pad(array, widths, constant_values=value)

    bias = mask = None
    if mode == 2:
        bias = None if problem.bias is None else after_a_zero(problem.bias, 3)
        mask = after_a_zero(problem.mask, 3, True)
    p = weights(Problem(q, after_a_zero(k, 1), after_a_zero(v, 1), bias, mask, options))
    return (jnp.log(p) - jnp.log(p[..., :1]))[..., 1:]
