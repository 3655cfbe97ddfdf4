"""The command `accelerator`: W1 to W4 and populations of networks on a GPU or a TPU, in minutes, as a page.

The peers of a race have a process each (`benchmarks.race`), and so has each number of networks. So the rest is not lost
if one fails or runs out of memory.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from rich.console import Console

from benchmarks import records
from benchmarks.data import make_files, read_mnist
from benchmarks.race import race
from benchmarks.report import spread
from functional_nn.bench.units import in_bytes, in_seconds

Record: TypeAlias = dict[str, Any]
"""A measurement, ready for JSON."""

FILE, PAGE = "results.jsonl", "page.md"
RESULTS = records.RESULTS / "accelerator.jsonl"
MINUTES, MINUTES_SMALL = 8.0, 5.0
"""The most minutes that a run takes. With small sizes, it takes about one where nothing else runs."""
PLANNED = 0.95
"""The share of the time that is divided among the parts. The rest is for starting and ending."""
PARTS = {"w1": 50, "w2": 50, "w3": 45, "w4": 50, "population": 75}
"""The parts of the page, each with its share of the time: seconds of a run of about five minutes."""
LEAST, LEAST_SMALL = 0.25, 0.05
"""A part begins only if at least this share of its weight is left, in seconds; the second one for small sizes."""
SHARE_OF_ROUNDS = 0.75
"""After this share of the time no round begins, so that the accuracies still fit."""
KILLED_AFTER, LEAST_LIMIT = 2.0, 20.0
"""The processes of a part are ended after its time, multiplied by this, and after at least these seconds."""

PEERS = {
    "w1": ("functional_nn", "jax_scan", "equinox_tuned", "flax_nnx_functional", "pytorch_tuned", "pytorch_cuda_graph"),
    "w2": ("functional_nn_mapped", "jax_vmap_scan", "equinox_tuned", "flax_nnx_tuned", "torch_func"),
    "w3": ("functional_nn", "jax_loop", "flax_nnx", "pytorch_channels_last", "pytorch_cuda_graph"),
    "w4": ("functional_nn_undivided", "jax_scan", "haiku", "pytorch", "pytorch_cuda_graph"),
}
"""Those that run on an accelerator; the first is functional_nn. There, one program trains all models of W2, and
one device computes W4."""
PEERS_SMALL = {
    "w1": ("functional_nn", "pytorch_tuned"),
    "w2": ("functional_nn_mapped", "equinox_tuned"),
    "w3": ("functional_nn", "pytorch_channels_last"),
    "w4": ("functional_nn_undivided", "haiku"),
}
ROUNDS, ROUNDS_SMALL = 5, 1
W2_OPTIONS, W2_OPTIONS_SMALL = {"models": 32, "hidden": [128, 64]}, {"models": 2, "hidden": [128, 64]}
HIDDEN, HIDDEN_SMALL = ([32], [128, 64]), ([32],)
MODELS, MODELS_SMALL = (1, 4, 16, 64, 256, 1024, 4096), (1, 4)
POPULATION_ROUNDS = 3
SHARED_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""By default, the first JAX process takes three quarters of a GPU's memory, so that a second one finds none."""
NVIDIA = "name,memory.total,driver_version,power.limit,clocks.max.sm"
"""What nvidia-smi is asked."""
DESCRIBE = """
import json, jax
first = jax.devices()[0]
memory = (first.memory_stats() or {}).get("bytes_limit")
about = {"platform": jax.default_backend(), "device": first.device_kind, "devices": len(jax.devices())}
print(json.dumps(about | {"memory_limit": memory, "jax": jax.__version__}))
"""
"""The program of a process that describes the device, and frees it for the peers when it ends."""


@dataclass(frozen=True)
class Settings:
    """What a part is given.

    Args:
        data_dir: the folder of MNIST's four files.
        small: whether sizes are those of a trial on a CPU.
        platform: the platform of JAX's first device: `cpu`, `gpu` or `tpu`.
        end: when the part should stop by itself, by `time.monotonic`.
        limit: when its processes are ended.
    """

    data_dir: Path
    small: bool
    platform: str
    end: float
    limit: float

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.end - time.monotonic()


def compare(
    console: Console,
    *,
    out: Path,
    data_dir: Path | None = None,
    minutes: float | None = None,
    small: bool = False,
    parts: Sequence[str] = tuple(PARTS),
    results: Path | None = None,
) -> bool:
    """Measures the parts, and writes `page.md` and `results.jsonl` to a folder.

    Args:
        console: where progress is printed.
        out: the folder, which is made if it is missing.
        data_dir: the folder of MNIST's files; None for images made from the package's own.
        minutes: the time for all parts; by default 8, and 5 for small sizes.
        small: whether to use small sizes. On a CPU they are always small.
        parts: the parts to measure.
        results: a file to append the results to. By default it is `benchmarks/results/accelerator.jsonl` for a run with
            full sizes, and none for a small one.

    Returns:
        Whether no part failed. A part that was left out has not failed.

    Raises:
        FileExistsError: if the folder has the results of another run.
    """
    began = time.monotonic()
    if (out / FILE).exists():
        raise FileExistsError(f"{out / FILE} exists. Runs are never overwritten: give each a new --out.")
    out.mkdir(parents=True, exist_ok=True)
    about = records.circumstances() | {"workload": "accelerator"}
    lines: list[Record] = []

    def keep(name: str, record: Record) -> None:
        lines.append(about | {"part": name} | record)
        records.append(out / FILE, [lines[-1]])

    machine = described()
    if "platform" in machine:
        keep("machine", machine)
    small = small or machine.get("platform") == "cpu"
    problem = machine.get("problem")
    keep("machine", {"status": "failed" if problem else "done", "problem": problem, "small": small})
    with tempfile.TemporaryDirectory() as temporary:
        folder = data_dir or Path(temporary)
        # If JAX does not start, nothing else can be measured.
        names = [name for name in PARTS if name in parts] if "platform" in machine else []
        if names and (small or data_dir is None):
            make_files(folder := Path(temporary), small=small, source=data_dir)
        total = 60 * PLANNED * (minutes or (MINUTES_SMALL if small else MINUTES))
        for number, name in enumerate(names):
            left = total - (time.monotonic() - began)
            seconds = seconds_for(name, names[number + 1 :], left, small)
            if seconds is None:
                status, problem = "left out", f"{max(left, 0):.0f} s were left"
            else:
                console.print(f"{name}: about {seconds:.0f} s")
                now = time.monotonic()
                limit = min(max(KILLED_AFTER * seconds, LEAST_LIMIT), left)
                settings = Settings(folder, small, machine["platform"], now + seconds, now + limit)
                status, problem = "done", None
                try:
                    for record in population(settings) if name == "population" else raced(name, settings):
                        keep(name, record)
                except Exception as error:  # one part must not lose the others
                    status, problem = "failed", f"{type(error).__name__}: {error}"
            keep(name, {"status": status, "problem": problem, "small": small})
            console.print(f"{name}: {status}{f': {problem}' if problem else ''}", markup=False)
    (out / PAGE).write_text(page(lines), "utf-8")
    if results is None and names and not small:
        results = RESULTS
    if results is not None:
        records.append(results, lines)
    console.print(f"{out / PAGE} has the tables, {out / FILE} all numbers.", markup=False, soft_wrap=True)
    return not any(line.get("status") == "failed" for line in lines)


def seconds_for(name: str, later: Sequence[str], left: float, small: bool) -> float | None:
    """The seconds for a part if `left` seconds are left for it and for later parts; None if it has to be left out.

    Each part gets its share by weight. Time that earlier parts did not use goes to the later ones.

    >>> seconds_for("w1", ["w2"], 80, small=False)
    40.0
    >>> seconds_for("w1", ["w2"], 10, small=False) is None
    True
    """
    least = (LEAST_SMALL if small else LEAST) * PARTS[name]
    if left < least:
        return None
    return max(left * PARTS[name] / (PARTS[name] + sum(PARTS[other] for other in later)), least)


def described() -> Record:
    """The device and its memory, from a process of its own, and what NVIDIA's tool says; or the key `problem`."""
    command = [sys.executable, "-c", DESCRIBE]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return {"problem": "JAX did not start in 120 s"}
    if answer.returncode:
        return {"problem": (answer.stderr.strip().splitlines() or ["JAX did not start"])[-1]}
    return json.loads(answer.stdout.splitlines()[-1]) | {"nvidia": nvidia()}


def nvidia() -> str | None:
    """What NVIDIA's tool says about the first GPU; None where there is no such tool or no such GPU."""
    command = ["nvidia-smi", f"--query-gpu={NVIDIA}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.splitlines()), None)


def raced(name: str, settings: Settings) -> Iterator[Record]:
    """Races the peers of a workload, and yields a record for each.

    On a TPU they run one after another, because only one process can use it. Elsewhere they take turns.

    Raises:
        RuntimeError: if functional_nn did not finish, after all records.
    """
    workload = importlib.import_module(f"benchmarks.{name}")
    peers = (PEERS_SMALL if settings.small else PEERS)[name]
    options = {} if name != "w2" else W2_OPTIONS_SMALL if settings.small else W2_OPTIONS
    examples = len(read_mnist(settings.data_dir).train_labels)
    about = {"race": name, "examples": examples, "steps": -(-examples // workload.BATCH_SIZE), **options}
    own_problem = None
    groups: Sequence[Sequence[str]] = [[peer] for peer in peers] if settings.platform == "tpu" else [peers]
    for number, group in enumerate(groups):
        seconds = settings.left / (len(groups) - number) * SHARE_OF_ROUNDS
        for record in _race(name, group, settings, options, ROUNDS_SMALL if settings.small else ROUNDS, seconds):
            yield about | {"title": workload.NAMES[record["peer"]]} | record
            if record["peer"] == peers[0]:
                own_problem = record["peer_problem"]
    if own_problem is not None:
        raise RuntimeError(f"{peers[0]}: {own_problem}")


def population(settings: Settings) -> Iterator[Record]:
    """Yields the seconds of W2 with 1 to 4,096 networks in one program. The sizes take turns.

    A size ends at the first number that does not fit in memory, or that the time left would not allow.
    """
    examples = len(read_mnist(settings.data_dir).train_labels)
    open_sizes = list(HIDDEN_SMALL if settings.small else HIDDEN)
    needed = {tuple(hidden): 0.0 for hidden in open_sizes}
    for models in MODELS_SMALL if settings.small else MODELS:
        for hidden in list(open_sizes):
            about = {"hidden": hidden, "models": models, "examples": examples}
            if settings.left < (expected := needed[tuple(hidden)]):
                open_sizes.remove(hidden)
                problem = f"left out: it could take {expected:.0f} s, and {settings.left:.0f} s are left"
                yield about | {"peer_problem": problem}
                continue
            options = {"models": models, "hidden": hidden}
            (record,) = _race("w2", ["functional_nn_mapped"], settings, options, POPULATION_ROUNDS, settings.left)
            yield about | record
            if record["peer_problem"] is not None:
                open_sizes.remove(hidden)
                continue
            # At worst, four times as many models take four times as long.
            epoch = median(record["seconds"])
            compiling = record["ready_seconds"] + max(record["warmup_seconds"][0] - epoch, 0)
            needed[tuple(hidden)] = compiling + 4 * epoch * (POPULATION_ROUNDS + 1)


def _race(
    name: str, peers: Sequence[str], settings: Settings, options: dict, rounds: int, seconds: float
) -> Iterator[Record]:
    """The results of each peer of a race, which has `seconds` for its rounds."""
    workload = importlib.import_module(f"benchmarks.{name}")
    environment = SHARED_MEMORY if len(peers) > 1 else {}
    if settings.platform == "cpu":
        environment = environment | {"CUDA_VISIBLE_DEVICES": ""}  # PyTorch uses no GPU if JAX does not
    entries = race(
        name,
        list(peers),
        settings.data_dir,
        rounds=rounds,
        warmup=1,
        epochs_a_turn=workload.EPOCHS_A_TURN,
        seed=0,
        options=options,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
        environment=environment,
        start_together=len(peers) > 1,
        seconds=seconds,
        limit=max(settings.limit - time.monotonic(), 1),
    )
    for entry in entries:
        results = asdict(entry)
        yield results | {"peer_problem": results.pop("problem")}


def page(lines: Sequence[Record]) -> str:
    """The page in Markdown. It has no number that is not in the records."""
    about = lines[0]
    texts = [f"# functional_nn on {about.get('device', 'an unknown device')}"]
    texts.append(f"Measured on {about['date'][:10]} by `python -m benchmarks accelerator`, commit {about['commit']}.")
    if any(line.get("small") for line in lines):
        texts.append("This was a **trial with small sizes**. It shows that everything runs. Its numbers mean nothing.")
    makers = {"machine": _machine, "population": _populations}
    titles = {"machine": "The machine", "population": "How many networks fill the chip"}
    for name in ("machine", *PARTS):
        own = [line for line in lines if line["part"] == name]
        measured = [line for line in own if "status" not in line]
        if own:
            texts.append(f"## {titles.get(name, name.upper())}")
        if measured:
            texts.append(makers.get(name, _race_text)(measured))
        for end in own:
            if end.get("status", "done") != "done":
                texts.append(f"**This part is not complete** ({end['status']}): {str(end['problem']).rstrip('.')}.")
    return "\n\n".join(texts) + "\n"


def _machine(measured: Sequence[Record]) -> str:
    (about,) = measured
    rows = [("device", about["device"]), ("devices", about["devices"]), ("jax", about["jax"])]
    if about["memory_limit"]:
        rows.append(("memory that JAX may use", in_bytes(about["memory_limit"])))
    if about["nvidia"]:
        rows.append((NVIDIA, about["nvidia"]))
    rows.append(("processor", f"{about['cpu']}, {about['cores']} cores"))
    return table(("", ""), rows)


def _race_text(measured: Sequence[Record]) -> str:
    """The recipe, the table with the fastest entry first, who could not run, and what the figures say."""
    workload = importlib.import_module(f"benchmarks.{measured[0]['race']}")
    finished = sorted((record for record in measured if not record["peer_problem"]), key=_seconds)
    # The units of the workloads are for all of MNIST.
    scale = 1000 / measured[0]["steps"] if workload.UNIT == "ms/step" else workload.SCALE
    ours = next((record for record in finished if record["peer"].startswith("functional_nn")), None)
    rows = []
    for record in finished:
        times = [scale * each / record["models_a_round"] for each in record["seconds"]]
        ratio = f"{_seconds(record) / _seconds(ours):.2f}" if ours else ""
        rows.append(
            (record["title"], record["device"], spread(times, 4), ratio, f"{record['warmup_seconds'][0]:.1f} s")
        )
    texts = [f"{workload.RECIPE}. Here an epoch has {measured[0]['examples']:,} images. Median, smallest and largest."]
    if rows:
        texts.append(table(("", "device", workload.UNIT, "/ functional_nn", "first epoch"), rows))
    problems = [f"{record['title']}: {record['peer_problem']}." for record in measured if record["peer_problem"]]
    texts += [" ".join(problems)] if problems else []
    others = [record for record in finished if record is not ours]
    if ours is None or not others:
        return "\n\n".join((*texts, "There is nothing to compare."))
    ratio = _seconds(ours) / _seconds(others[0])
    texts.append(f"functional_nn takes {ratio:.2f} of the time of the fastest other program ({others[0]['title']}).")
    if len({record["device"] for record in finished}) > 1:
        texts.append("The entries ran on different devices, so this is no fair comparison.")
    return "\n\n".join(texts)


def _seconds(record: Record) -> float:
    """The median seconds of an epoch of one model."""
    return median(record["seconds"]) / record["models_a_round"]


NEAR_BEST = 0.8
"""A chip is nearly full at the smallest population with this share of the best rate."""


def _populations(measured: Sequence[Record]) -> str:
    """Seconds of one network's epoch, for each number of networks, and where the chip is full."""
    rows, sentences = [], []
    for record in measured:
        cells: tuple[str, ...] = (record["peer_problem"], "")
        if record["peer_problem"] is None:
            cells = (in_seconds(_seconds(record)), in_seconds(record["warmup_seconds"][0]))
        rows.append((record["models"], "-".join(map(str, record["hidden"])), *cells))
    for hidden in dict.fromkeys(tuple(record["hidden"]) for record in measured):
        own = [record for record in measured if tuple(record["hidden"]) == hidden and not record["peer_problem"]]
        if len(own) > 1:
            best = min(own, key=_seconds)
            rates = {record["models"]: record["models"] / median(record["seconds"]) for record in own}
            full = min(models for models, rate in rates.items() if rate >= NEAR_BEST * max(rates.values()))
            gain = f"{_seconds(own[0]) / _seconds(best):.1f} times that of {own[0]['models']:,}"
            sentences.append(
                f"Hidden sizes {'-'.join(map(str, hidden))}: the rate is best with {best['models']:,} networks at once "
                f"({gain}); the chip is nearly full, with at least {NEAR_BEST:.0%} of this rate, from {full:,} on."
            )
    headings = ("networks", "hidden sizes", "an epoch of one network", "the first epoch of all")
    examples = f"An epoch has {measured[0]['examples']:,} images. All networks are one program."
    return "\n\n".join((examples, table(headings, rows), *sentences))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown. The first column is text, the others are numbers."""
    lines = [headings, ("---", *["---:"] * (len(headings) - 1)), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
