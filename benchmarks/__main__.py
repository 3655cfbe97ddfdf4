"""The command line of the benchmarks: `python -m benchmarks w1 --data-dir DIR`; `--help` lists all commands."""

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import records, summary, w1, w2, w3, w4, w5, w6, w7
from benchmarks.accelerator import MINUTES, MINUTES_SMALL, PARTS
from benchmarks.accelerator import compare as compare_accelerator
from benchmarks.compilation import NETWORKS, put_table
from benchmarks.compilation import compare as compare_compilation
from benchmarks.data import read_mnist
from benchmarks.growth import measure as growth
from benchmarks.growth.curves import CURVES
from benchmarks.race import race
from benchmarks.report import print_table
from functional_nn import DataError

WORKLOADS = {"w1": w1, "w2": w2, "w3": w3, "w4": w4, "w5": w5, "w6": w6, "w7": w7}
# Each module has RECIPE, UNIT, SCALE, BATCH_SIZE, STEPS, PRECISION, EPOCHS_A_TURN, and PEERS. OPTIONS has
# the options of its peers, with the values for the tables. For these it also has NAMES, SHOWN, WORK, OURS and PYTORCH.
# benchmarks/w1.py explains them.

WITHOUT_DATA = ("compile", "growth", "tables")
"""The commands that need no folder of MNIST's files."""


def some_of(known: Iterable[str], separator: str = ",") -> Callable[[str], list[str]]:
    """Makes an argument type: a list of known names, divided by a separator."""

    def parse(text: str) -> list[str]:
        given = text.split(separator)
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}; got {', '.join(unknown)}")
        return given

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """A type of argument: an integer that is at least `least`."""

    def parse(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return int(text)

    return parse


def above_zero(text: str) -> float:
    """A type of argument: a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def new_file(text: str) -> Path:
    """A type of argument: a file to write. A folder is refused before anything is measured, and not afterwards."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {text}")
    return path


def folder(text: str) -> Path:
    """A type of argument: a folder, which may be a new one."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text}")
    return path


def sizes(text: str) -> list[int]:
    """A type of argument: positive integers, separated by commas."""
    return [at_least(1)(size) for size in text.split(",")]


def run(
    console: Console, name: str, peers: list[str], arguments: argparse.Namespace, results: Path, baseline: str
) -> None:
    """Races the peers of a workload, prints the table and records the results."""
    workload = WORKLOADS[name]
    circumstances = records.circumstances()
    options = {option: getattr(arguments, option) for option in workload.OPTIONS}
    with console.status("starting") as status:
        entries = race(
            name,
            peers,
            arguments.data_dir,
            rounds=arguments.rounds,
            warmup=arguments.warmup,
            epochs_a_turn=workload.EPOCHS_A_TURN,
            seed=arguments.seed,
            options=options,
            progress=status.update,
        )
    conditions = {
        "workload": name,
        "batch_size": workload.BATCH_SIZE,
        "steps": workload.STEPS,
        "precision": workload.PRECISION,
        "seed": arguments.seed,
        **options,
    }
    records.append(results, [circumstances | conditions | asdict(entry) for entry in entries])
    print_table(console, workload, entries, baseline, options, circumstances)


def run_all(console: Console, arguments: argparse.Namespace) -> None:
    """Races the peers that each workload shows, and writes the tables of the documents."""
    for name, workload in WORKLOADS.items():
        results = arguments.results / f"{name}.jsonl"
        run(console, name, list(workload.SHOWN), arguments, results, "functional_nn")
    put_tables(arguments.results)


def put_tables(results: Path) -> None:
    """Writes the tables of the documents that come from the records in a folder."""
    summary.put_all(WORKLOADS, results)
    put_table(results / "compile.jsonl")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="functional_nn compared with other libraries."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, workload in WORKLOADS.items():
        command = commands.add_parser(name, help=workload.RECIPE.replace("%", "%%"))  # argparse formats it with %
        known = workload.PEERS
        everywhere = [peer for peer in known if not peer.endswith("cuda_graph")]
        help = f"some of {','.join(known)} (default all that need no GPU)"
        command.add_argument("--peers", type=some_of(known), default=everywhere, help=help)
        help = "the peer that the ratios compare with (default functional_nn)"
        command.add_argument("--baseline", choices=known, metavar="PEER", help=help)

    commands.add_parser("all", help="all workloads, one after another; then writes the tables of the documents")
    commands.add_parser("tables", help="writes the tables of the documents from the recorded results")

    for name in (*WORKLOADS, "all"):
        command = commands.choices[name]
        command.add_argument("--rounds", type=at_least(1), default=7, help="number of timed epochs (default 7)")
        command.add_argument("--warmup", type=at_least(1), default=2, help="epochs before the timed ones (default 2)")
        command.add_argument("--seed", type=int, default=0)

    for name, models in (("w2", 8), ("all", 32)):
        command = commands.choices[name]
        help = f"number of models trained at once in W2 (default {models})"
        command.add_argument("--models", type=at_least(1), default=models, help=help)
        help = "sizes of the hidden layers in W2 (default 128,64)"
        command.add_argument("--hidden", type=sizes, default=[128, 64], help=help)

    command = commands.add_parser("compile", help="compile time of fit beside plain programs by jax.jit")
    command.add_argument("--rounds", type=at_least(1), default=7, help="number of compilations of each (default 7)")
    help = f"some of {','.join(NETWORKS)} (default all)"
    command.add_argument("--networks", type=some_of(NETWORKS), default=list(NETWORKS), help=help)

    command = commands.add_parser("growth", help="how time, compile time and memory grow with the sizes of a problem")
    help = f"some of {','.join(CURVES)} (default all)"
    command.add_argument("--curves", type=some_of(CURVES), default=list(CURVES), help=help)
    command.add_argument("--rounds", type=at_least(1), default=5, help="number of timed rounds (default 5)")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="a few small sizes, printed and not recorded")
    how.add_argument("--only-page", action="store_true", help="writes the page from the recorded results")

    command = commands.add_parser("accelerator", help="what a GPU or a TPU does, in minutes, as a page")
    command.add_argument("--out", type=Path, required=True, help="a new folder for the page and the results")
    command.add_argument("--data-dir", type=Path, help="folder of MNIST's four .gz files (default: made-up images)")
    help = f"time for all parts (default {MINUTES:g}, with small sizes {MINUTES_SMALL:g})"
    command.add_argument("--minutes", type=above_zero, help=help)
    command.add_argument("--small", action="store_true", help="a trial with small sizes, as always on a CPU")
    help = f"some of {','.join(PARTS)} (default all)"
    command.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help=help)
    help = "JSON lines to append to as well (default benchmarks/results/accelerator.jsonl, for full sizes)"
    command.add_argument("--results", type=new_file, help=help)

    for name, command in commands.choices.items():
        if name == "accelerator":
            continue
        if name not in WITHOUT_DATA:
            command.add_argument("--data-dir", type=Path, required=True, help="folder of MNIST's four .gz files")
        whole_folder = name in ("all", "tables")
        place = "" if whole_folder else f"{name}.jsonl"
        kind = "folder of the JSON lines" if whole_folder else "JSON lines to append to"
        help = f"{kind} (default benchmarks/results/{place})"
        results = folder if whole_folder else new_file
        command.add_argument("--results", type=results, default=records.RESULTS / place, help=help)
    arguments = parser.parse_args()
    baseline = getattr(arguments, "baseline", None)
    if baseline is not None and baseline not in arguments.peers:
        parser.error(f"--baseline: {baseline} is not among the peers of this race, {', '.join(arguments.peers)}")
    if getattr(arguments, "data_dir", None) is not None:
        try:
            read_mnist(arguments.data_dir)
        except DataError as error:
            parser.error(f"--data-dir: {error}")
    if arguments.command == "all" and arguments.rounds < summary.FEWEST_ROUNDS:
        parser.error(f"--rounds: the tables need at least {summary.FEWEST_ROUNDS}")
    return arguments


def main() -> None:
    arguments, console = parse_arguments(), Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # in a file, lines are not cut off
    if arguments.command == "compile":
        compare_compilation(console, arguments.rounds, arguments.networks, arguments.results)
    elif arguments.command == "growth":
        how = {"quick": arguments.quick, "only_page": arguments.only_page}
        growth.compare(console, arguments.curves, arguments.rounds, arguments.results, **how)
    elif arguments.command == "accelerator":
        chosen = {
            name: getattr(arguments, name) for name in ("out", "data_dir", "minutes", "small", "parts", "results")
        }
        try:
            succeeded = compare_accelerator(console, **chosen)
        except FileExistsError as error:
            sys.exit(f"--out: {error}")
        if not succeeded:
            sys.exit(1)
    elif arguments.command == "tables":
        put_tables(arguments.results)
    elif arguments.command == "all":
        run_all(console, arguments)
    else:
        baseline = arguments.baseline or "functional_nn"
        run(console, arguments.command, arguments.peers, arguments, arguments.results, baseline)


if __name__ == "__main__":
    main()
