"""Causes of slowness in the compiled program: slow routines for convolutions and products."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.bench.diagnose.findings import Finding
from functional_nn.bench.diagnose.jaxpr import SIXTEEN_BITS, place
from functional_nn.jaxprs.flops import flops_by_scope, flops_of
from functional_nn.jaxprs.hlo_text import Operation
from functional_nn.jaxprs.matrix_products import PRODUCTS, operand_types, product_name
from functional_nn.jaxprs.walk import equations

USUAL_AXES = re.compile(r"dim_labels=b(\d*)f_\1io->b\1f\b")
"""The axes of a convolution in the order NHWC, HWIO, for any number of spatial axes."""
GROUPS = re.compile(r"(?:feature|batch)_group_count=(\d+)")
HLO_TYPES = {"bfloat16": "bf16", "float16": "f16"}
LEAST_SHARE = 0.05
"""A product gets a warning only if it has at least this share of the program's operations."""
TENSOR_CORE_MULTIPLE = 8
"""On a GPU, sizes of 16-bit products that are multiples of this use its matrix units fully."""


def looped_convolutions(found: Sequence[Operation], platform: str) -> Iterator[Finding]:
    """Warns of convolutions with unusual axes in a loop, for which XLA's CPU compiler has only a slow routine."""
    if platform != "cpu":
        return
    for operation in found:
        if operation.kind == "convolution" and operation.in_loop and not USUAL_AXES.search(operation.text):
            yield Finding(
                "convolution in a loop",
                place(operation.scope),
                "a convolution whose axes are not in the order NHWC, HWIO takes about 20 times as long in a loop on a "
                "CPU; JAX makes such convolutions for gradients.",
                'Use functional_nn.conv with lowering="auto" or with_hand_vjp, or take it out of the loop.',
            )


def slow_products(program: ClosedJaxpr, found: Sequence[Operation], platform: str) -> Iterator[Finding]:
    """Warns of products for which XLA has no fast routine on this platform."""
    if platform == "cpu":
        yield from _integer_products(found)
        yield from _grouped_convolutions(found)
    least_flops = LEAST_SHARE * max(flops_by_scope(program).total(), 1)
    for scope, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS and repeats * flops_of(equation) >= least_flops:
            slow = narrow_product(equation, found, platform)
            if slow is not None:
                reason, remedy = slow
                yield Finding("slow product", place(scope), f"{product_name(equation)}: {reason}", remedy)


def narrow_product(equation: JaxprEqn, found: Sequence[Operation], platform: str) -> tuple[str, str] | None:
    """Why a product of 16-bit numbers is slow on a platform, and what to do; None if it is not."""
    left, right = operand_types(equation)
    if left.dtype.name not in SIXTEEN_BITS or right.dtype != left.dtype:
        return None
    if platform == "cpu":
        if _has_narrow_routine(HLO_TYPES[left.dtype.name], found):
            return None
        reason = f"XLA has no routine for {left.dtype.name} on this CPU: operands are converted to float32."
        return reason, "Compute in float32 here; 16 bits are faster on accelerators."
    if platform not in ("gpu", "cuda", "rocm") or equation.primitive.name != "dot_general":
        return None
    if all(size % TENSOR_CORE_MULTIPLE == 0 for size in _product_sizes(equation)):
        return None
    reason = f"a size is not a multiple of {TENSOR_CORE_MULTIPLE}: the matrix units are used partly or not."
    return reason, f"Make layer and batch sizes multiples of {TENSOR_CORE_MULTIPLE}."


def _has_narrow_routine(hlo_type: str, found: Sequence[Operation]) -> bool:
    """Whether any product of the compiled program reads numbers of this type."""
    products = (operation for operation in found if _is_product(operation))
    return any(hlo_type in operand for operation in products for operand in operation.operand_types)


def _product_sizes(equation: JaxprEqn) -> list[int]:
    """The sizes of the contracted axes and of the free axes of a product."""
    contracted, batches = equation.params["dimension_numbers"]
    operands = operand_types(equation)
    sizes = [operands[0].shape[axis] for axis in contracted[0]]
    for operand, contracted_axes, batch_axes in zip(operands, contracted, batches, strict=True):
        taken = (*contracted_axes, *batch_axes)
        sizes += [size for axis, size in enumerate(operand.shape) if axis not in taken]
    return sizes


def _is_product(operation: Operation) -> bool:
    return operation.kind in ("dot", "convolution", "custom-call") or "__ynn_fusion" in operation.text


def _integer_products(found: Sequence[Operation]) -> Iterator[Finding]:
    for operation in found:
        if operation.kind in ("dot", "convolution") and re.match(r"[su]\d|pred", operation.dtype):
            yield Finding(
                "slow product",
                place(operation.scope),
                f"a {operation.kind} of integers ({operation.dtype}) runs in plain loops on a CPU.",
                "Convert to float32 before the product; if the product selects rows, use indexing.",
            )


def _grouped_convolutions(found: Sequence[Operation]) -> Iterator[Finding]:
    for operation in found:
        groups = GROUPS.search(operation.text)
        if operation.kind == "convolution" and groups and int(groups[1]) > 1:
            yield Finding(
                "slow product",
                place(operation.scope),
                f"a convolution in {groups[1]} groups has no fast routine on a CPU; vmap over weights makes such "
                "convolutions.",
                'Use functional_nn.conv with lowering="product", or lax.map over the members.',
            )
