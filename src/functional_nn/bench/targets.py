"""A function or a network compiled for a chip that this machine does not have, and what is known without a run."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from functional_nn.bench.call_arguments import check_call, has_static_leaves, hide_static_leaves, taking_hidden
from functional_nn.bench.chips import Blocks, Chip, TargetProgram, chip_named, compile_for
from functional_nn.bench.compiled_program import Memory, planned_memory
from functional_nn.bench.diagnose import Explanation, find_causes, place
from functional_nn.bench.network_programs import TRAIN_STATE, MeasuredNetwork, Workload, fit_spec, sweep_spec, workload
from functional_nn.bench.suite import BenchmarkCase
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.core.display import html_text
from functional_nn.core.trees import PyTree
from functional_nn.jaxprs.counts import (
    PRODUCTS,
    bytes_by_scope,
    flops_by_scope,
    flops_of,
    least_bytes,
    operand_types,
    product_name,
    uncounted,
)
from functional_nn.jaxprs.walk import array_type, equations, live
from functional_nn.jaxprs.xla_options import Options, for_platform, step_options, sum_options
from functional_nn.training.programs import ProgramFunctions, ProgramSpec, argument_shapes


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


class TargetCase(NamedTuple):
    """A case, and the report on its program."""

    case: BenchmarkCase
    report: TargetReport

    def to_dict(self) -> dict[str, object]:
        """The case and the report, ready for JSON."""
        return {**self.case.to_dict(), **self.report.to_dict()}


def targets(network: MeasuredNetwork, cases: Sequence[BenchmarkCase], chip: Chip) -> Iterator[TargetCase]:
    """Compiles every case for a chip, and yields each report when it is done.

    ``train`` and ``sweep`` are the programs for the full batches of an epoch. A sweep trains all of its members by one
    program, as it does on one accelerator.
    """
    for case in cases:
        yield TargetCase(case, _report(network, case, chip))


def epoch_program(spec: ProgramSpec) -> Workload:
    """The function that ``fit`` or ``sweep`` compiles for the full batches of an epoch, with shapes as arguments."""
    functions, shapes = ProgramFunctions(spec, None), argument_shapes(spec)
    draw_order = functions.mapped(functions.draw_order, own=1, shared=1)
    start = functions.mapped(functions.start, own=2, shared=0)
    full_batches = functions.mapped(functions.full_batches, own=3, shared=2)
    order, _ = jax.eval_shape(draw_order, shapes.key, shapes.number)
    train_state = jax.eval_shape(start, shapes.hyperparameters, shapes.key)
    arguments = (shapes.hyperparameters, train_state, order, *spec.data.part("train"))
    return Workload("train", full_batches, arguments, (TRAIN_STATE,))


def _report(network: MeasuredNetwork, case: BenchmarkCase, chip: Chip) -> TargetReport:
    what, batch_size, precision, members = case
    if what == "train":
        return _epoch_report(what, fit_spec(network, batch_size, precision), case, chip)
    if what == "sweep":
        spec = sweep_spec(network, batch_size, precision, members if members > 1 else None)
        return _epoch_report(f"sweep of {members}", spec, case, chip)
    made = workload(what, network, batch_size, precision)
    program = compile_for(chip, made.function, made.arguments, made.donate)
    return report_on(made.name, chip, program, made.arguments, made.donate)


def _epoch_report(name: str, spec: ProgramSpec, case: BenchmarkCase, chip: Chip) -> TargetReport:
    def options(program: ClosedJaxpr) -> Options:
        """The options by which ``fit`` compiles an epoch. They depend on the loops in the program."""
        on_chip = for_platform(program, chip.platform)
        return step_options(on_chip) | sum_options(on_chip)

    made = epoch_program(spec)
    # ``fit`` and ``sweep`` keep the train state from before the epoch, so it is not donated.
    program = compile_for(chip, made.function, made.arguments, options=options)
    return report_on(name, chip, program, made.arguments, made.donate, steps=case.steps)


LABEL_WIDTH = 14
WIDTH = 80
"""Printed lines have at most this number of characters."""
MOST_SHOWN = 3
"""How many products are printed: those with the most wasted work."""
LEAST_SHOWN = 0.01
"""A product is printed if at least this share of its work is padding."""


@dataclass(frozen=True, repr=False)
class TargetReport:
    """A program for a chip that this machine does not have. It prints as a table; its ``repr`` is one line.

    Nothing was run. All seconds of the program follow from counts and from published peaks: they are lower bounds,
    and not measurements.

    Args:
        name: the name of the program.
        chip: the chip, with its published peaks.
        stages: seconds to ``trace``, ``lower`` and ``compile`` it on this machine.
        reason: why it does not compile, in the compiler's words; empty if it does.
        memory: bytes that it needs, as the compiler planned them; None if it does not compile.
        flops: floating-point operations of one call, counted from the traced program.
        bytes: bytes that one call moves if every product reads its operands from memory and writes its result there.
        least_bytes: bytes of the arguments and results that one call has to move, whatever the chip keeps on itself.
            If an argument is returned with some elements replaced, only the new ones count: the rest can stay in place.
        products: the matrix products and convolutions with their padding, those with the most wasted work first.
        findings: the causes of slowness that ``explain`` finds in the program for this chip.
        uncounted: the operations that ``flops`` leaves out, and how often one call runs each.
        steps: the number of train steps in one call.
    """

    name: str
    chip: Chip
    stages: dict[str, float]
    reason: str
    memory: Memory | None
    flops: int
    bytes: int
    least_bytes: int
    products: tuple[PaddedProduct, ...]
    findings: Explanation
    uncounted: dict[str, int] = field(default_factory=dict)
    steps: int = 1

    @property
    def compiles(self) -> bool:
        """Whether the program compiles for the chip."""
        return not self.reason

    @property
    def fits(self) -> bool:
        """Whether the program compiles and its memory is at most that of the chip."""
        return self.memory is not None and self.memory.peak <= self.chip.memory

    @property
    def product_seconds(self) -> float:
        """The seconds of one call's matrix products at the chip's peak: the sum of cost · operations / peak."""
        return sum(product.cost * product.flops for product in self.products) / self.chip.flops_per_second

    @property
    def byte_seconds(self) -> float:
        """The seconds to move ``least_bytes`` at the chip's peak, but for those that a cache may hold already."""
        return max(self.least_bytes - self.chip.cache, 0) / self.chip.bytes_per_second

    @property
    def lower_bound(self) -> float:
        """The seconds that one call takes at least: max(``product_seconds``, ``byte_seconds``).

        Both may happen at the same time, so they are not added up. Operations outside of products take no time here,
        because not all makers publish the peak of their vector units.
        """
        return max(self.product_seconds, self.byte_seconds)

    @property
    def uncached_seconds(self) -> float:
        """The same if the chip kept no array on itself between two products: with ``bytes`` for ``least_bytes``."""
        return max(self.product_seconds, self.bytes / self.chip.bytes_per_second)

    @property
    def wasted(self) -> float:
        """The share of the matrix unit's work that is padding."""
        return wasted_share(self.products)

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {
            "name": self.name,
            "chip": {
                "name": self.chip.name,
                "flops_per_second": self.chip.flops_per_second,
                "bytes_per_second": self.chip.bytes_per_second,
                "memory": self.chip.memory,
                "cache": self.chip.cache,
            },
            "compiles": self.compiles,
            "reason": self.reason,
            "stages": self.stages,
            "memory": self.memory and {**self.memory._asdict(), "peak": self.memory.peak},
            "fits": self.fits,
            "flops": self.flops,
            "not_counted": self.uncounted,
            "bytes": self.bytes,
            "least_bytes": self.least_bytes,
            "steps": self.steps,
            "product_seconds": self.product_seconds,
            "byte_seconds": self.byte_seconds,
            "lower_bound_seconds": self.lower_bound,
            "uncached_seconds": self.uncached_seconds,
            "wasted": self.wasted,
            "products": [product.to_dict() for product in self.products],
            "findings": self.findings.to_list(),
        }

    def __repr__(self) -> str:
        bound = f"at least {in_seconds(self.lower_bound)} a call, {self.wasted:.0%} of the products is padding"
        if not self.compiles:
            return f"TargetReport({self.name} for {self.chip.name}: does not compile; {bound})"
        memory = "" if self.memory is None else f"{in_bytes(self.memory.peak)}, "
        return f"TargetReport({self.name} for {self.chip.name}: compiles, {memory}{bound})"

    _repr_html_ = html_text

    def __str__(self) -> str:
        steps = f", {self.steps} steps a call" if self.steps > 1 else ""
        lines = [f"{self.name} for {self.chip.name}{steps}; nothing was run"]
        for label, text in self.facts():
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=label.ljust(LABEL_WIDTH), subsequent_indent=" " * LABEL_WIDTH
            )
        return "\n".join(lines)

    def facts(self) -> Iterator[tuple[str, str]]:
        """The label and the text of each fact. The waste of a single product has no label."""
        chip = self.chip
        seconds = in_seconds(self.stages["compile"])
        yield "compiles", f"yes, in {seconds}" if self.compiles else f"no: {self.reason}"
        if self.memory:
            share = f"{100 * self.memory.peak / chip.memory:.2g}% of {in_bytes(chip.memory)}"
            yield "memory", f"{self.memory}; {share}{'' if self.fits else ', so it does not fit'}"
        rates = {f"{in_flops(chip.flops_per_second / product.cost)}/s" for product in self.products}
        products = f"; the products take {in_seconds(self.product_seconds)} at {' and '.join(sorted(rates))}"
        yield "operations", f"{in_flops(self.flops)}{products if rates else ''}"
        if self.uncounted:
            yield "not counted", ", ".join(f"{name} ({number})" for name, number in self.uncounted.items())
        cached = f", without {in_bytes(chip.cache)} that may be in the cache" if chip.cache else ""
        yield (
            "bytes",
            f"{in_bytes(self.least_bytes)} of arguments and results take {in_seconds(self.byte_seconds)} at "
            f"{in_bytes(chip.bytes_per_second)}/s{cached}; {in_bytes(self.bytes)} if every product reads from memory",
        )
        each = f", {in_seconds(self.lower_bound / self.steps)} a step" if self.steps > 1 else ""
        yield (
            "lower bound",
            f"{in_seconds(self.lower_bound)} a call{each}, from published peaks; "
            f"{in_seconds(self.uncached_seconds)} if every product reads from memory. No measurement: a run takes "
            "longer",
        )
        if self.products:
            yield "padding", f"{self.wasted:.0%} of the work of the products"
        for product in self.products[:MOST_SHOWN]:
            if product.wasted >= LEAST_SHOWN:
                where = f" in {product.layer}" if product.layer else ""
                yield "", f"{product.wasted:.0%} of {product.name}{where}"
        for finding in self.findings.findings:
            yield "warning", str(finding)


class ProductSizes(NamedTuple):
    """Several products of (rows, shared) and (shared, columns), of equal sizes."""

    products: int
    rows: int
    shared: int
    columns: int


class PaddedProduct(NamedTuple):
    """A product of a program, with its padding.

    Args:
        name: the shapes of its operands.
        layer: the path of the layer and the direction; empty outside of layers.
        flops: its operations in one call of the program.
        padded_flops: the same, if its sizes are rounded up to whole blocks.
        cost: its time at the chip's peak, divided by the time of the same product of bfloat16 numbers.
    """

    name: str
    layer: str
    flops: int
    padded_flops: int
    cost: float

    @property
    def wasted(self) -> float:
        """The share of the matrix unit's work that is padding."""
        return 1 - self.flops / self.padded_flops

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON."""
        return {**self._asdict(), "wasted": self.wasted}


def padded_products(program: ClosedJaxpr, chip: Chip) -> tuple[PaddedProduct, ...]:
    """The products in a program of floating-point numbers up to float32, those with the most wasted work first.

    Equal products of one layer are one entry. The sizes of a product are rounded up to those that the matrix unit
    computes. The compiler may exchange rows and columns, so the better of the two ways counts. A convolution counts as
    the product of all windows with the weights. This is a model of the unit, and no measurement: the compiler may find
    a better layout for a small convolution, or take a worse one.

    Args:
        program: the traced program, as the chip computes it.
        chip: the chip.
    """
    flops: defaultdict[tuple[str, str, float], int] = defaultdict(int)
    padded_flops = flops.copy()
    for scope, equation, repeats, _ in equations(program):
        if equation.primitive.name in PRODUCTS and flops_of(equation) and _is_floating(equation, chip):
            key = product_name(equation), place(scope), _cost(equation, chip)
            flops[key] += repeats * flops_of(equation)
            blocks = chip.blocks[operand_types(equation)[0].dtype.itemsize]
            padded_flops[key] += repeats * _padded(product_sizes(equation), blocks)
    products = [
        PaddedProduct(name, layer, number, padded_flops[name, layer, cost], cost)
        for (name, layer, cost), number in flops.items()
    ]
    return tuple(sorted(products, key=lambda product: product.flops - product.padded_flops))


def wasted_share(products: tuple[PaddedProduct, ...]) -> float:
    """The share of the matrix unit's work that is padding, over several products; 0 if there are none."""
    padded = sum(product.cost * product.padded_flops for product in products)
    return 1 - sum(product.cost * product.flops for product in products) / padded if padded else 0.0


def product_sizes(equation: JaxprEqn) -> ProductSizes:
    """The sizes of a matrix product, or of a convolution as a product of windows and weights.

    >>> import jax
    >>> product_sizes(jax.make_jaxpr(jnp.matmul)(jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4))).eqns[0])
    ProductSizes(products=5, rows=2, shared=3, columns=4)
    """
    left, right = operand_types(equation)
    if equation.primitive.name == "dot_general":
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        count, shared = (math.prod(left.shape[axis] for axis in axes) for axes in (batch, contracted))
        return ProductSizes(count, left.size // (count * shared), shared, right.size // (count * shared))
    parameters = equation.params
    out_axis, *_ = parameters["dimension_numbers"].rhs_spec
    outputs = right.shape[out_axis]
    groups = parameters["feature_group_count"] * parameters["batch_group_count"]
    # Between the elements of a dilated input there are zeros, which meet nothing.
    shared = math.ceil(right.size // outputs / math.prod(parameters["lhs_dilation"]))
    result_size = array_type(equation.outvars[0]).size
    return ProductSizes(groups, result_size // outputs, shared, outputs // groups)


def _padded(sizes: ProductSizes, blocks: Blocks) -> int:
    """The operations if all sizes are rounded up to whole blocks."""

    def up(size: int, block: int) -> int:
        return block * math.ceil(size / block)

    free = min(
        up(sizes.rows, blocks.rows) * up(sizes.columns, blocks.columns),
        up(sizes.rows, blocks.columns) * up(sizes.columns, blocks.rows),
    )
    return 2 * sizes.products * up(sizes.shared, blocks.shared) * free


def _is_floating(equation: JaxprEqn, chip: Chip) -> bool:
    types = [operand.dtype for operand in operand_types(equation)]
    return all(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize in chip.blocks for dtype in types)


def _cost(equation: JaxprEqn, chip: Chip) -> float:
    """The cost of a product, at the precision that JAX asks for."""
    bytes_of_a_number = max(operand.dtype.itemsize for operand in operand_types(equation))
    if bytes_of_a_number < 4:
        return chip.float8_cost if bytes_of_a_number == 1 else 1
    precision = equation.params["precision"]
    wanted = precision if isinstance(precision, tuple) else (precision,)
    # Of other ways to ask for a precision, the cheapest one is assumed, so that the bound holds.
    return max(chip.float32_costs.get(one, chip.float32_costs[lax.Precision.DEFAULT]) for one in wanted)
