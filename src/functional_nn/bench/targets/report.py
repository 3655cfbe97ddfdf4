"""What is known about a program for a chip without a run: whether it compiles, its memory, work and a lower bound."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from functional_nn.bench.diagnose.findings import Explanation
from functional_nn.bench.measure.memory import Memory
from functional_nn.bench.targets.chips import Chip
from functional_nn.bench.targets.padding import PaddedProduct, wasted_share
from functional_nn.bench.units import in_bytes, in_flops, in_seconds
from functional_nn.core.display import html_text

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
