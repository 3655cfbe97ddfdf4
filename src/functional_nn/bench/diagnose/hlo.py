"""Causes of slowness that only the compiled program shows: what XLA made of convolutions and products."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.diagnose.jaxpr import SIXTEEN_BITS, place
from functional_nn.bench.measure.peaks import PRODUCTS, product_name
from functional_nn.jaxprs.flops import flops_by_scope, flops_of
from functional_nn.jaxprs.hlo_text import Operation
from functional_nn.jaxprs.walk import equations

USUAL_AXES = re.compile(r"dim_labels=b(\d*)f_\1io->b\1f\b")
GROUPS = re.compile(r"(?:feature|batch)_group_count=(\d+)")
HLO_TYPES = {"bfloat16": "bf16", "float16": "f16"}
WORTH_A_WORD = 0.05
"""Of a program's operations: products with a smaller share are left alone."""
TENSOR_CORE_MULTIPLE = 8
"""Sizes of 16-bit products on a GPU that are multiples of this keep its matrix units busy."""


def looped_convolutions(found: list[Operation], platform: str) -> Iterator[Finding]:
    """Convolutions with turned axes in a loop, which XLA's CPU compiler does by a slow general routine."""
    for operation in found if platform == "cpu" else ():
        if operation.kind == "convolution" and operation.in_loop and not USUAL_AXES.search(operation.text):
            yield Finding(
                "convolution in a loop",
                place(operation.scope),
                "a convolution whose axes are not in the order NHWC, HWIO, as JAX makes for gradients, runs some 20 "
                "times as long in a loop on a CPU.",
                'Use functional_nn.conv with lowering="auto" or with_hand_vjp, or take it out of the loop.',
            )


def slow_products(program: Any, found: list[Operation], platform: str) -> Iterator[Finding]:
    """Products that XLA has no quick routine for on this platform."""
    if platform == "cpu":
        yield from _integer_products(found)
        yield from _grouped_convolutions(found)
    worth = WORTH_A_WORD * max(flops_by_scope(program).total(), 1)
    for scope, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS and repeats * flops_of(equation) >= worth:
            reason = narrow_product(equation, found, platform)
            if reason:
                yield Finding("slow product", place(scope), f"{product_name(equation)}: {reason[0]}", reason[1])


def narrow_product(equation: Any, found: list[Operation], platform: str) -> tuple[str, str] | None:
    """What is wrong with a product of 16-bit numbers on a platform, and what to do; None for nothing."""
    left, right = (variable.aval for variable in equation.invars)
    if left.dtype.name not in SIXTEEN_BITS or right.dtype != left.dtype:
        return None
    if platform == "cpu":
        own = HLO_TYPES[left.dtype.name]
        quick = any(own in kind for operation in found if _is_product(operation) for kind in operation.operand_types)
        text = f"XLA has no routine for {left.dtype.name} on this CPU: operands are converted to float32."
        return None if quick else (text, "Compute in float32 here; 16 bits gain on accelerators.")
    if platform in ("gpu", "cuda", "rocm") and equation.primitive.name == "dot_general":
        contracted, batches = equation.params["dimension_numbers"]
        sizes = [left.shape[axis] for axis in contracted[0]]
        for aval, own, shared in zip((left, right), contracted, batches, strict=True):
            sizes += [size for axis, size in enumerate(aval.shape) if axis not in (*own, *shared)]
        if any(size % TENSOR_CORE_MULTIPLE for size in sizes):
            text = f"a size is no multiple of {TENSOR_CORE_MULTIPLE}, so matrix units work on padding or not at all."
            return text, f"Make layer and batch sizes multiples of {TENSOR_CORE_MULTIPLE}."
    return None


def _is_product(operation: Operation) -> bool:
    return operation.kind in ("dot", "convolution", "custom-call") or "__ynn_fusion" in operation.text


def _integer_products(found: list[Operation]) -> Iterator[Finding]:
    for operation in found:
        if operation.kind in ("dot", "convolution") and re.match(r"[su]\d|pred", operation.dtype):
            yield Finding(
                "slow product",
                place(operation.scope),
                f"a {operation.kind} of integers ({operation.dtype}) is done by plain loops on a CPU.",
                "Convert to float32 before the product, or gather rows where it picks them.",
            )


def _grouped_convolutions(found: list[Operation]) -> Iterator[Finding]:
    for operation in found:
        groups = GROUPS.search(operation.text)
        if operation.kind == "convolution" and groups and int(groups[1]) > 1:
            yield Finding(
                "slow product",
                place(operation.scope),
                f"a convolution in {groups[1]} groups, as vmap over weights makes, has no quick routine on a CPU.",
                'Use functional_nn.conv with lowering="product", or lax.map over the members.',
            )
