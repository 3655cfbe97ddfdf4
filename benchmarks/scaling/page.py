"""The tables of docs/explanation/many_machines.md, made from the newest records."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.race import ROOT
from benchmarks.summary import around
from functional_nn.bench import NETWORKS, Rates, scaling_limits, sweep_plan, training_plan
from functional_nn.bench.units import in_bytes, in_seconds
from functional_nn.configuration.flag_types import MODELS
from functional_nn.reports.plan_tables import duration

PAGE = ROOT / "docs" / "explanation" / "many_machines.md"
DEVICES = (1, 8, 64, 512, 4096)
BATCH_SIZES = (128, 4096)
LIMIT = 0.25
"""How far a prediction may be from the measurement."""
MILLION = 1_000_000
MACHINES = (1, 100, 1000)
NETWORK = "ethernet-10g"


def write(results: Path) -> None:
    """Writes the tables between the marks of the page."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    # The newest measurement of each model and of each point.
    known = {line["rates"]["model"]: Rates.from_dict(line["rates"]) for line in lines if "rates" in line}
    rates = {model: known[model] for model in MODELS if model in known}
    tables = {
        "errors": errors(lines),
        "named-models": named_models(rates),
        "million": million(rates),
    }
    for name, text in tables.items():
        before, after = around(PAGE, name)
        PAGE.write_text(f"{before}\n{text}\n{after}", "utf-8")


def errors(lines: list[dict]) -> str:
    """Predicted and measured numbers, with date, machine and the calibrated networks."""
    about = next(line for line in reversed(lines) if "point" in line)
    day, jax = about["date"][:10], about["versions"]["jax"]
    text = f"{day}, {about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}, jax {jax}."
    rows = [text, "", "| | | predicted | measured | error |", "|---|---|---|---|---|"]
    newest = {
        tuple(line["point"][name] for name in ("what", "model", "kind", "count")): line["point"]
        for line in lines
        if "point" in line
    }
    for (what, model, kind, count), point in newest.items():
        work = "a step" if what == "step" else "a model of a sweep"
        where = f"{count} {kind}" if count > 1 else f"{count} {kind.removesuffix('s')}"
        numbers = (
            f"{in_seconds(point['predicted'])} | {in_seconds(point['measured'])} | {round(point['error'], 2) + 0:+.0%}"
        )
        rows.append(f"| {model}, {work} | {where} | {numbers} |")
    sizes = [abs(point["error"]) for point in newest.values()]
    within = sum(size <= LIMIT for size in sizes)
    rows += ["", f"{within} of {len(sizes)} predictions are within {LIMIT:.0%}; the largest error is {max(sizes):.0%}."]
    networks = {(line["network"], line["count"]): line for line in lines if "network" in line}
    for kind in dict.fromkeys(kind for kind, _ in networks):
        of_kind = [f"{in_seconds(networks[name]['latency'])} (of {name[1]})" for name in networks if name[0] == kind]
        rows.append(f"A message between {kind} takes {', '.join(of_kind)}.")
    return "\n".join(rows)


def named_models(rates: dict[str, Rates]) -> str:
    """The efficiency of each named model, and where more devices stop paying."""
    columns = " | ".join(f"{devices:,}" for devices in DEVICES)
    lines = [f"| batch | model | a step on one | {columns} | fastest | at least half |"]
    lines.append("|" + "---|" * (len(DEVICES) + 5))
    for batch_size in BATCH_SIZES:
        for model, of_model in rates.items():
            network = NETWORKS[NETWORK]
            plans = [training_plan(of_model, batch_size, devices, network) for devices in DEVICES]
            efficiencies = " | ".join(f"{plan.efficiency:.1%}" for plan in plans)
            fastest, worthwhile = scaling_limits(of_model, batch_size, network)
            one = in_seconds(plans[0].step_seconds)
            lines.append(f"| {batch_size:,} | {model} | {one} | {efficiencies} | {fastest:,} | {worthwhile:,} |")
    return "\n".join(lines)


def million(rates: dict[str, Rates]) -> str:
    """The cost of a million models of each kind, ten epochs of 60,000 examples each."""
    columns = " | ".join(f"{count:,} core{'s' * (count > 1)}" for count in MACHINES)
    lines = [f"| model | {columns} | models a second on 1,000 | files | bytes | merge |"]
    lines.append("|" + "---|" * (len(MACHINES) + 5))
    for model, of_model in rates.items():
        plans = [sweep_plan(of_model, MILLION, count) for count in MACHINES]
        times = " | ".join(duration(plan.seconds) for plan in plans)
        last = plans[-1]
        files = f"{last.files:,} | {in_bytes(last.size)} | {duration(last.merge_seconds)}"
        lines.append(f"| {model} | {times} | {last.members_a_second:.3g} | {files} |")
    return "\n".join(lines)
