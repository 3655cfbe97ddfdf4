"""``target(function, *arguments, chip)``: a function compiled for a chip that this machine does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from functional_nn.bench.call_arguments import check_call, has_static_leaves, hide_static_leaves, taking_hidden
from functional_nn.bench.diagnose.explain import find_causes
from functional_nn.bench.diagnose.findings import Explanation
from functional_nn.bench.measure.memory import planned_memory
from functional_nn.bench.targets.chips import Chip, chip_named
from functional_nn.bench.targets.compiler import TargetProgram, compile_for
from functional_nn.bench.targets.padding import padded_products
from functional_nn.bench.targets.report import TargetReport
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.bytes_moved import bytes_by_scope
from functional_nn.jaxprs.flops import flops_by_scope, uncounted
from functional_nn.jaxprs.for_platform import for_platform
from functional_nn.jaxprs.least_bytes import least_bytes
from functional_nn.jaxprs.walk import live


def target(
    function: Callable[..., object], *arguments: object, chip: str, donate: int | Sequence[int] = ()
) -> TargetReport:
    """Compiles a function for a chip that this machine does not have, and counts its work. Nothing is run.

    The report says whether the function compiles, or why not, and how much memory it needs. It has the operations and
    bytes of one call, and a lower bound of its time:

        max(operations of the products / peak of operations, bytes of arguments and results / peak of bytes)

    with the peaks that the chip's maker publishes. The bound is no measurement, and a run takes longer. It takes into
    account that, at JAX's default precision, a TPU rounds float32 numbers to bfloat16 before a product, and a GPU
    rounds them to TF32. On a GPU, the bytes are those beyond its cache, which can hold arrays from call to call.

    Args:
        function: a function of pytrees of arrays.
        *arguments: the arguments of its call: arrays, or ``jax.ShapeDtypeStruct``.
        chip: ``"tpu-v5e"``, ``"tpu-v5p"``, ``"tpu-v6e"`` or ``"cuda-h100"``.
        donate: the numbers of the arguments that are donated.

    Raises:
        InputError: if the compiler for the chip is not installed, for an unknown chip, if an argument is not an array,
            or if ``donate`` has a number without an argument.

    >>> target(jax.numpy.sin, 1.0, chip="tpu-v5")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: chip: expected the name of a chip, got 'tpu-v5'. Did you mean tpu-v5e? ...
    """
    known_chip = chip_named(chip)
    donate = check_call(function, _with_numbers_for_shapes(arguments), donate)
    name: str = getattr(function, "__name__", type(function).__name__)
    if has_static_leaves(arguments):
        function, arguments = taking_hidden(function), tuple(map(hide_static_leaves, arguments))
    return report_on(name, known_chip, compile_for(known_chip, function, arguments, donate), arguments, donate)


def report_on(
    name: str,
    chip: Chip,
    program: TargetProgram,
    arguments: Sequence[object],
    donate: Sequence[int] = (),
    *,
    steps: int = 1,
) -> TargetReport:
    """The report on a program. ``donate`` also has the numbers of the arguments that are kept on purpose."""
    live_program = live(program.jaxpr)
    on_chip = for_platform(live_program, chip.platform)
    memory, findings = None, Explanation(())
    if program.compiled is not None:
        memory = planned_memory(program.compiled)
        findings = find_causes(on_chip, program.compiled, arguments, donate, chip.platform)
    return TargetReport(
        name=name,
        chip=chip,
        stages=program.stages,
        reason=program.reason,
        memory=memory,
        # Convolutions count the same for all platforms, whatever computes them.
        flops=flops_by_scope(live_program).total(),
        bytes=bytes_by_scope(on_chip).total(),
        least_bytes=least_bytes(on_chip),
        products=padded_products(on_chip, chip),
        findings=findings,
        uncounted=dict(sorted(uncounted(live_program).items())),
        steps=steps,
    )


def _with_numbers_for_shapes(arguments: PyTree) -> PyTree:
    """The arguments with a number in place of each ``jax.ShapeDtypeStruct``, for checks that do not know these."""
    return jax.tree.map(lambda leaf: 0 if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, arguments)
