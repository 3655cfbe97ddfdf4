"""Training in several precisions: milliseconds a step, and the share of the peak in the same precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import optax

import functional_nn as fnn
from benchmarks import w1, w3
from benchmarks.accelerator.parts import Record, Settings, is_gpu
from functional_nn.bench.measure.suite import cases_of
from functional_nn.bench.measure.suite import measure as measured
from functional_nn.bench.measure.workloads import MeasuredNetwork

WIDE = (4096, 4096)
"""The hidden sizes of the wide network. Its products fill a large accelerator; those of W1 do not."""
WIDE_BATCH = 1024
SECONDS, SECONDS_SMALL = 1.0, 0.1
"""How long each is measured; compiling comes on top."""


class PrecisionChoice(NamedTuple):
    """A precision of training.

    Args:
        name: its name in the tables.
        products: the value of `jax_default_matmul_precision`.
        compute: the name that `fit` takes.
    """

    name: str
    products: str | None
    compute: str


def precisions(platform: str) -> tuple[PrecisionChoice, ...]:
    """The precisions of a platform: full float32, the platform's fast products of float32, and bfloat16.

    >>> [choice.name for choice in precisions("cpu")]
    ['float32', 'bfloat16']
    """
    bfloat16 = PrecisionChoice("bfloat16", None, "bfloat16")
    if platform == "cpu":
        return PrecisionChoice("float32", "highest", "float32"), bfloat16
    # "default" is TF32 on a GPU that has it. On a TPU it is one product of numbers rounded to bfloat16.
    fast = "float32, products in TF32" if is_gpu(platform) else "float32, products in one pass of bfloat16"
    return (
        PrecisionChoice("float32, products in full", "highest", "float32"),
        PrecisionChoice(fast, "default", "float32"),
        bfloat16,
    )


class Case(NamedTuple):
    """A network to measure, with its name and its batch size."""

    name: str
    network: MeasuredNetwork
    batch_size: int


def networks(small: bool) -> Sequence[Case]:
    """W1's network, a wide one, and W3's network; W1's alone for a trial."""

    def classifier(net: fnn.Layer, trained: fnn.Layer | None = None) -> MeasuredNetwork:
        return MeasuredNetwork(net, fnn.cross_entropy, optax.adam, w3.IMAGE_SHAPE, w3.CLASSES, trained)

    _, *hidden, classes = w1.SIZES
    first = Case("W1, 784-128-64-10", classifier(fnn.models.mlp(classes, hidden=hidden)), w1.BATCH_SIZE)
    if small:
        return (first,)
    blocks = [layer for size in w3.CHANNELS for layer in (fnn.conv(size, 3), fnn.relu, fnn.max_pool(2))]
    convolutional = fnn.chain(*blocks, fnn.flatten(), fnn.dense(classes))
    sizes = "-".join(map(str, WIDE))
    return (
        first,
        Case(f"wide, 784-{sizes}-10", classifier(fnn.models.mlp(classes, hidden=WIDE)), WIDE_BATCH),
        Case("W3, convolutional", classifier(convolutional, fnn.with_hand_vjp(convolutional)), w3.BATCH_SIZE),
    )


@contextmanager
def products_in(products: str | None) -> Iterator[None]:
    """Products of float32 in another precision, in all threads: the programs of `fit` are compiled in several."""
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", products)
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def measure(settings: Settings) -> Iterator[Record]:
    """Yields the train step of each network in each precision: the program of `fit`, with 32 steps a call."""
    left_out = 0
    for case in networks(settings.small):
        for chosen in precisions(settings.platform):
            if settings.left < 0:
                left_out += 1
                continue
            with products_in(chosen.products):
                (one,) = measured(
                    case.network,
                    cases_of(["train"], [case.batch_size], [chosen.compute]),
                    seconds=SECONDS_SMALL if settings.small else SECONDS,
                )
            result = one.result
            yield {
                "network": case.name,
                "batch_size": case.batch_size,
                "precision": chosen.name,
                "step_seconds": one.step.median,
                "quartiles": one.step.quartiles,
                "compute_share": result.shares["compute"],
                "memory_share": result.shares["memory"],
                "flops_per_second": result.flops_per_second,
                "peak_flops_per_second": result.peaks.flops_per_second,
                "compile_seconds": result.stages["compile"],
            }
    if left_out:
        yield {"left_out": left_out}
