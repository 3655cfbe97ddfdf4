"""How compile time grows with depth: `repeat` of a transformer block beside a `chain` of as many.

The program is a training step's: forward pass and gradient. Tracing, lowering and compilation are timed together, each
depth in turn, and the ratio is that of 24 blocks to 2 within one round.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import functional_nn as fnn
from benchmarks import records

SHALLOW, DEEP = 2, 24
FEATURES, TIME, BATCH = 32, 16, 8


def seconds_to_compile(net: fnn.Layer) -> float:
    """From the network to a program that can run."""
    x = jax.ShapeDtypeStruct((BATCH, TIME, FEATURES), jnp.float32)
    params, state = jax.eval_shape(lambda key: net.init(key, (TIME, FEATURES)), jax.random.key(0))

    def loss(params, state, x):
        return jnp.sum(net.apply(params, state, x, train=True)[0])

    jax.clear_caches()
    clock = time.perf_counter()
    jax.jit(jax.value_and_grad(loss)).lower(params, state, x).compile()
    return time.perf_counter() - clock


def compare(console: Console, rounds: int, results) -> None:
    """Time both ways at both depths, print the table, keep the results."""
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
        own = [line["seconds"] for line in lines if line["way"] == way]
        ratios = [seconds[DEEP] / seconds[SHALLOW] for seconds in own]
        medians = [f"{statistics.median(s[depth] for s in own):.2f}" for depth in (SHALLOW, DEEP)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(way, *medians, spread)
    console.print(table)
