"""Compile time against depth: `repeat` of a transformer block compared with a `chain` of the same blocks.

The program is a forward pass and its gradient. Tracing, lowering and compilation are timed together. The depths are
timed in turn, and the ratio is the time for 24 blocks divided by the time for 2 blocks in the same round.
"""

import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import functional_nn as fnn
from benchmarks import records
from functional_nn.jaxprs.xla_options import compiling_anew

SHALLOW, DEEP = 2, 24
FEATURES, TIME, BATCH = 32, 16, 8


@compiling_anew()
def seconds_to_compile(net: fnn.Layer) -> float:
    """The seconds from a network to an executable program."""
    x = jax.ShapeDtypeStruct((BATCH, TIME, FEATURES), jnp.float32)
    params, state = jax.eval_shape(lambda key: net.init(key, (TIME, FEATURES)), jax.random.key(0))

    def loss(params, state, x):
        return jnp.sum(net.apply(params, state, x, train=True)[0])

    jax.clear_caches()
    clock = time.perf_counter()
    jax.jit(jax.value_and_grad(loss)).lower(params, state, x).compile()
    return time.perf_counter() - clock


def compare(console: Console, rounds: int, results: Path) -> None:
    """Times both ways at both depths, prints the table and records the results."""
    block = fnn.models.transformer_block(4)
    ways = {
        "repeat": lambda depth: fnn.repeat(block, depth),
        "chain": lambda depth: fnn.chain(*[block] * depth),
    }
    seconds_to_compile(ways["repeat"](1))  # the first compilation of a process takes longer
    circumstances = records.circumstances() | {"versions": records.versions(("jax", "jaxlib"))}
    lines = []
    for number in range(rounds):
        for way, make in ways.items():
            seconds = {depth: seconds_to_compile(make(depth)) for depth in (SHALLOW, DEEP)}
            lines.append({"workload": "depth", "round": number, "way": way, "seconds": seconds})
    records.append(results, [circumstances | line for line in lines])

    table = Table(title=f"Seconds to compile a gradient, {SHALLOW} and {DEEP} transformer blocks")
    for heading in ("", f"{SHALLOW} blocks", f"{DEEP} blocks", "ratio, median (min-max)"):
        table.add_column(heading)
    for way in ways:
        rounds_of_way = [line["seconds"] for line in lines if line["way"] == way]
        ratios = [seconds[DEEP] / seconds[SHALLOW] for seconds in rounds_of_way]
        medians = [f"{statistics.median(seconds[depth] for seconds in rounds_of_way):.2f}" for depth in (SHALLOW, DEEP)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(way, *medians, spread)
    console.print(table)
