"""The machine: its device, memory, driver and versions, and its peaks, measured."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp

import functional_nn as fnn
from benchmarks.accelerator.parts import Record, Settings
from benchmarks.accelerator.precision import precisions
from functional_nn.bench.compare.records import environment

SIZE, SIZE_SMALL = 4096, 512
"""The size of the square matrices whose product is measured."""
NVIDIA = ("name", "memory.total", "driver_version", "power.limit", "clocks.max.sm")
"""What nvidia-smi is asked."""


def measure(settings: Settings) -> Iterator[Record]:
    """Yields the description of the machine first, and then the peaks in each precision."""
    memory = jax.local_devices()[0].memory_stats() or {}
    yield environment() | {"memory_limit": memory.get("bytes_limit"), "nvidia": nvidia()}

    platform = jax.default_backend()
    size, seconds = (SIZE_SMALL, 0.1) if settings.small or platform == "cpu" else (SIZE, 1.0)
    for chosen in precisions(platform):
        if settings.left < 0:
            return
        x = jax.random.uniform(jax.random.key(0), (size, size), jnp.dtype(chosen.compute), -1, 1)
        product = partial(jnp.matmul, precision=chosen.products)
        result = fnn.benchmark(product, x, x, name=chosen.name, seconds=seconds)
        yield {
            "precision": chosen.name,
            "flops_per_second": result.peaks.flops_per_second,
            "bytes_per_second": result.peaks.bytes_per_second,
            "launch_seconds": result.launch.median,
            "rates": [rate._asdict() for rate in result.peaks.rates],
        }


def nvidia() -> dict[str, str] | None:
    """What NVIDIA's tool says about the first GPU; None where there is no such tool or no such GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(NVIDIA)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parsed(answer)


def parsed(answer: str) -> dict[str, str] | None:
    """The first line of the tool's answer, by name.

    >>> parsed("NVIDIA H100 80GB HBM3, 81559 MiB, 570.1, 700.00 W, 1980 MHz\\n")["power.limit"]
    '700.00 W'
    """
    rows = [[value.strip() for value in row] for row in csv.reader(io.StringIO(answer)) if row]
    return dict(zip(NVIDIA, rows[0], strict=True)) if rows and len(rows[0]) == len(NVIDIA) else None
