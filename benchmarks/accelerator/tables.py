"""The tables of the page, each with a sentence that is computed from its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.accelerator.markdown import table
from benchmarks.accelerator.parts import Record
from functional_nn.bench.knee import NEAR_BEST, knee
from functional_nn.bench.units import in_bytes, in_flops, in_seconds

FAR = 0.5
"""A step that uses less than this share of a peak is not limited by it."""


def machine(records: Sequence[Record]) -> str:
    """The device with its versions, and its measured peaks."""
    about, *peaks = records
    rows = [("device", about["device"]), ("devices", about["devices"])]
    if about.get("memory_limit"):
        rows.append(("memory that JAX may use", in_bytes(about["memory_limit"])))
    rows += [(f"nvidia-smi: {name}", value) for name, value in (about.get("nvidia") or {}).items()]
    rows.append(("processor", f"{about['cpu']}, {about['cores']} cores"))
    rows += [(f"version: {name}", value) for name, value in about["versions"].items()]
    paragraphs = [table(("", ""), rows)]
    if peaks:
        headings = ("precision", "operations a second", "bytes a second", "an empty program")
        rates = [
            (
                peak["precision"],
                f"{in_flops(peak['flops_per_second'])}/s",
                f"{in_bytes(peak['bytes_per_second'])}/s",
                in_seconds(peak["launch_seconds"]),
            )
            for peak in peaks
        ]
        paragraphs.append(table(headings, rates))
        best = max(peaks, key=lambda peak: peak["flops_per_second"])
        ratio = f": {best['flops_per_second'] / peaks[0]['flops_per_second']:.1f} times as fast as in "
        ratio = "" if best is peaks[0] else f"{ratio}{peaks[0]['precision']}"
        launch = min(peak["launch_seconds"] for peak in peaks)
        operations = launch * best["flops_per_second"]
        paragraphs.append(
            f"Matrix products are fastest in {best['precision']}{ratio}. While Python starts one empty program "
            f"({in_seconds(launch)}), the device could compute {in_flops(operations)}."
        )
    return "\n\n".join(paragraphs)


def population(records: Sequence[Record]) -> str:
    """Seconds of one network's epoch, for each number of networks, and where the chip is full."""
    rows, sentences = [], []
    for record in records:
        shape = "-".join(map(str, record["hidden"]))
        if record.get("problem"):
            rows.append((record["models"], shape, record["problem"], "", ""))
        else:
            memory = record.get("device_peak_bytes")
            cells = (in_seconds(record["seconds_a_model"]), in_seconds(record["first_epoch_seconds"]))
            rows.append((record["models"], shape, *cells, in_bytes(memory) if memory else "not reported"))
    for hidden in dict.fromkeys(tuple(record["hidden"]) for record in records):
        sentences.append(_full(hidden, [record for record in records if tuple(record["hidden"]) == hidden]))
    headings = ("networks", "hidden sizes", "an epoch of one network", "the first epoch of all", "most memory so far")
    examples = f"An epoch has {records[0]['examples']:,} images. All networks are one program."
    return "\n\n".join((examples, table(headings, rows), " ".join(sentences)))


def _full(hidden: Sequence[int], records: Sequence[Record]) -> str:
    """Where the chip is full, for one size of networks."""
    said = []
    measured = [record for record in records if not record.get("problem")]
    if len(measured) > 1:
        counts = [record["models"] for record in measured]
        times = [record["seconds_a_model"] for record in measured]
        best = times.index(min(times))
        full = knee(counts, [count * time for count, time in zip(counts, times, strict=True)])
        gain = f"{times[0] / times[best]:.1f} times that of {counts[0]:,}"
        said.append(f"the rate is best with {counts[best]:,} networks at once ({gain})")
        said.append(f"the chip is nearly full, with at least {NEAR_BEST:.0%} of this rate, from {full:,} on")
    said += [f"{record['models']:,} networks: {record['problem']}" for record in records if record.get("problem")]
    return f"Hidden sizes {'-'.join(map(str, hidden))}: {'; '.join(said)}." if said else ""


def precision(records: Sequence[Record]) -> str:
    """A train step of each network in each precision."""
    measured = [record for record in records if "network" in record]
    rows = [
        (
            record["network"],
            record["batch_size"],
            record["precision"],
            in_seconds(record["step_seconds"]),
            f"{in_flops(record['flops_per_second'])}/s",
            f"{record['compute_share']:.1%}",
        )
        for record in measured
    ]
    sentences = []
    for network in dict.fromkeys(str(record["network"]) for record in measured):
        own = [record for record in measured if record["network"] == network]
        fastest = min(own, key=lambda record: record["step_seconds"])
        ratio = f", {own[0]['step_seconds'] / fastest['step_seconds']:.2f} times as fast as {own[0]['precision']}"
        share = fastest["compute_share"]
        limit = "so arithmetic limits it" if share >= FAR else "so arithmetic is not what limits it"
        sentences.append(
            f"{network}: {fastest['precision']} is fastest{'' if fastest is own[0] else ratio}. It "
            f"reaches {share:.1%} of the peak in this precision, {limit}."
        )
    left_out = sum(record.get("left_out", 0) for record in records)
    if left_out:
        sentences.append(f"Left out, because the time was over: {left_out} more.")
    headings = ("network", "batch", "precision", "a step", "operations", "of the peak")
    return "\n\n".join((table(headings, rows), " ".join(sentences)))


def models(records: Sequence[Record]) -> str:
    """A train step of each named model, and its first finding."""
    rows, bounds = [], Counter()
    for record in records:
        if record.get("problem"):
            rows.append((f"`{record['model']}`", record["problem"], "", "", "", ""))
            continue
        shares = record["shares"]
        bounds[max(shares, key=shares.get)] += 1
        finding = record["findings"][0] if record["findings"] else "nothing to warn of"
        cells = (in_seconds(record["step_seconds"]), in_seconds(record["compile_seconds"]))
        rows.append((f"`{record['model']}`", *cells, f"{record['roofline']:.1%}", record["verdict"], finding))
    headings = ("model", "a step", "compiling", "of the roofline", "bound", "first finding of `explain`")
    paragraphs = [table(headings, rows)]
    if bounds:
        ((bound, count),) = bounds.most_common(1)
        measured = sum(bounds.values())
        found = sum(bool(record.get("findings")) for record in records)
        paragraphs.append(
            f"The nearest bound is most often *{bound}*: in {count} of {measured} models. `explain` warns of something "
            f"in {found} of them."
        )
    return "\n\n".join(paragraphs)


def whole_run(records: Sequence[Record]) -> str:
    """`fit` beside one program, and a step in each mode."""
    run = records[0]
    steps, epochs = run["steps"], run["epochs"]
    times = {name: median(seconds) for name, seconds in run["seconds"].items()}
    rows = [
        (f"`{name}`" if name == "fit" else name, in_seconds(run["first_seconds"][name]), in_seconds(seconds),
         in_seconds(seconds / steps))
        for name, seconds in times.items()
    ]  # fmt: skip
    difference, launch = times["fit"] - times["one program"], run["launch_seconds"]
    each = abs(difference) / epochs
    said = (
        f"{epochs} epochs of {steps // epochs} steps. `fit` takes {in_seconds(abs(difference))} "
        f"{'more' if difference > 0 else 'less'} than one program, {in_seconds(each)} an epoch."
    )
    if difference > 0:
        said += (
            f" A start of a program takes {in_seconds(launch)} here, so the difference is the time of "
            f"{each / launch:.0f} starts. In each epoch, `fit` starts four programs, fetches the metrics and writes "
            "them down. Once per run, it computes the initial values, looks its programs up and moves the data to the "
            "device. One program does none of this."
        )
    paragraphs = [table(("", "first time, with compiling", "later", "a step"), rows), said]
    several: Mapping[str, float] = {
        mode["mode"]: mode["step_seconds"] for record in records for mode in record.get("modes", ())
    }
    if several:
        names = {
            "eager": "each operation from Python",
            "step": "a compiled step from Python",
            "epoch": "an epoch as one program",
            "run": "a run as one program",
        }
        paragraphs.append(table(("", "a step"), [(names[name], in_seconds(each)) for name, each in several.items()]))
        paragraphs.append(
            f"A step that Python starts takes {several['step'] / several['epoch']:.1f} times as long as a step in an "
            f"epoch that is one program."
        )
    return "\n\n".join(paragraphs)


def verify(records: Sequence[Record]) -> str:
    """The verdicts of the gradients."""
    about, *groups = records
    if not groups:
        return "No comparison was finished."
    verdicts: Counter[str] = Counter()
    for group in groups:
        verdicts.update(group["verdicts"])
    compared = sum(len(group["group"]) for group in groups)
    seconds = sum(group["seconds"] for group in groups)
    passed = all(group["passed"] for group in groups)
    cells = [f"{compared} of {about['names']}", in_seconds(seconds), sum(group["planted"] for group in groups)]
    cells += [sum(group["not_found"] for group in groups), *verdicts.values()]
    headings = ["names compared", "time", "planted errors", "not found", *verdicts]
    rows = [
        (failure["name"], failure["of"], failure["kind"], failure["dtype"], failure["outcome"],
         f"{failure['error']} ({failure['tolerance']} {failure['unit']} allowed)")
        for group in groups
        for failure in group["failures"]
    ]  # fmt: skip
    paragraphs = [table(headings, [cells])]
    if rows:
        paragraphs.append(table(("name", "with respect to", "kind", "type", "outcome", "error"), rows))
    said = "All comparisons passed" if passed else "**Not all comparisons passed**"
    if compared < about["names"]:
        said += f"; {about['names'] - compared} of {about['names']} names were left out, because the time was over"
    precision = about["matmul_precision"]
    paragraphs.append(f"{said}. Products of float32 were computed with the setting {precision!r}.")
    return "\n\n".join(paragraphs)
