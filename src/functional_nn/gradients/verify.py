"""The comparison of everything public, or of chosen subjects, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

from functional_nn.core.display import progress_bar
from functional_nn.core.errors import InputError
from functional_nn.core.texts import suggest
from functional_nn.core.validation import check_count, check_flag, shown
from functional_nn.gradients import coverage
from functional_nn.gradients.compare.report import Report, combine_reports
from functional_nn.gradients.compare.verdict import Verdict

SLOWEST = (
    "optimizers",
    "lstm",
    "gru_masked_sequence",
    "rnn_relu_sequence",
    "attention",
    "transformer",
    "resnet",
    "recurrent_stacked_masked",
    "transformer_block",
    "residual_block",
)
"""The slowest subjects. They start first, so that no process ends long after the others."""


def verify(
    names: Sequence[str] = (),
    *,
    quick: bool = True,
    dtype: str | None = None,
    jobs: int = 1,
    progress: bool | None = None,
) -> Report:
    """Compares the hand-derived formulas of this package with automatic differentiation and with an arbiter.

    Args:
        names: public names, such as ``"lstm"``, which include all their variants, or names of variants. By default
            everything is compared. Then it is a failure if no case compares a public name that has a derivative.
        quick: whether the comparison is quick. It then takes a few minutes on two cores and compares each public name
            once, in float64 (activations in float32). A full comparison takes several times as long: it compares
            every variant, in three types, under ``jit``, ``vmap`` and ``scan``, up to second order.
        dtype: keep only the verdicts of this type.
        jobs: the number of processes that share the work.
        progress: whether to show a progress bar; by default on a terminal and in a notebook.

    Raises:
        InputError: a name that is not known.

    >>> verify(["relu"]).passed
    True
    """
    check_flag("quick", quick)
    check_count("jobs", jobs)
    if dtype is not None and not isinstance(dtype, str):
        raise InputError("dtype", "the name of a type", shown(dtype))
    if progress is not None:
        check_flag("progress", progress)
    started = time.perf_counter()
    chosen = _chosen(names, quick)
    reports = {}
    with progress_bar("verifying", len(chosen), progress) as advance:
        for name, report in _reports(chosen, quick, min(jobs, len(chosen))):
            reports[name] = report
            advance(name)
    report = combine_reports([reports[name] for name in chosen], title="quick run" if quick else "full run")
    verdicts = [verdict for verdict in report.verdicts if dtype in (None, verdict.dtype)]
    if not names:
        verdicts += map(_missing_case, coverage.missing())
    return replace(report, verdicts=tuple(verdicts), seconds=time.perf_counter() - started)


def _chosen(names: Sequence[str], quick: bool) -> list[str]:
    """The names of the subjects to compare, the slowest first."""
    known = list(coverage.subjects())
    if not names:
        chosen = coverage.quick_subjects() if quick else known
    else:
        chosen = []
        for name in names:
            variants = [subject for subject in known if name in (subject, coverage.public_name(subject))]
            if not variants:
                if name in coverage.missing():
                    remedy = "Write one: docs/how_to/adding_a_layer.md, section Register."
                    raise InputError(
                        "names", "names that have a case in gradients/cases", f"{name}, without one", remedy
                    )
                public = {coverage.public_name(subject) for subject in known}
                raise InputError("names", "names of what is compared", repr(name), suggest(name, public))
            chosen += variants
    return sorted(dict.fromkeys(chosen), key=lambda name: name not in SLOWEST)


def _reports(names: Sequence[str], quick: bool, jobs: int) -> Iterator[tuple[str, Report]]:
    if jobs <= 1:
        yield from ((name, coverage.check_subject(name, quick)) for name in names)
        return
    # New processes are started from nothing ("spawn"), because a fork would lack the threads of JAX and could hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _use_one_thread) as pool:
        running = {pool.submit(coverage.check_subject, name, quick): name for name in names}
        for done in as_completed(running):
            yield running[done], done.result()


def _use_one_thread() -> None:
    """Limits a process to one thread before JAX starts, because the processes share the cores."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"


def _missing_case(name: str) -> Verdict:
    note = "It is public and has a derivative, but no case compares it."
    return Verdict(name, "", "fail", float("inf"), 0.0, kind="coverage", note=note)
