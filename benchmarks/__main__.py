"""The command line: `python -m benchmarks w1 --data-dir DIR` and its like; `python -m benchmarks --help` lists them."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks import accuracy, depth, records, w1, w2, w3, w4, w5
from benchmarks.mnist import read_mnist
from benchmarks.race import race
from benchmarks.report import print_table
from functional_nn import DataError

WORKLOADS = {"w1": w1, "w2": w2, "w3": w3, "w4": w4, "w5": w5}
# each module has RECIPE, UNIT, SCALE, BATCH_SIZE, STEPS, PRECISION, PEERS and, by name, the OPTIONS that its peers take


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """An argument that lists names, separated by commas."""

    def parse(text: str) -> list[str]:
        given = text.split(",")
        if unknown := sorted(set(given) - set(known)):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}; got {', '.join(unknown)}")
        return given

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """An argument that is a whole number, not smaller than `least`."""

    def parse(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return int(text)

    return parse


def sizes(text: str) -> list[int]:
    """An argument that lists positive whole numbers, separated by commas."""
    return [at_least(1)(size) for size in text.split(",")]


def run(console: Console, workload: ModuleType, arguments: argparse.Namespace) -> None:
    """Race a workload's peers; print the table, keep the results."""
    circumstances = records.circumstances()
    options = {name: getattr(arguments, name) for name in workload.OPTIONS}
    with console.status("starting") as status:
        entries = race(
            arguments.command,
            arguments.peers,
            arguments.data_dir,
            rounds=arguments.rounds,
            warmup=arguments.warmup,
            seed=arguments.seed,
            options=options,
            progress=status.update,
        )
    conditions = {
        "workload": arguments.command,
        "batch_size": workload.BATCH_SIZE,
        "steps": workload.STEPS,
        "precision": workload.PRECISION,
        "seed": arguments.seed,
        **options,
    }
    records.append(arguments.results, [circumstances | conditions | asdict(entry) for entry in entries])
    print_table(console, workload, entries, arguments.baseline, options, circumstances)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="functional_nn beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, workload in WORKLOADS.items():
        command = commands.add_parser(name, help=workload.RECIPE)
        known = workload.PEERS
        command.add_argument("--rounds", type=at_least(1), default=7, help="epochs that are timed (default 7)")
        command.add_argument("--warmup", type=at_least(1), default=2, help="epochs before them (default 2)")
        command.add_argument(
            "--peers", type=some_of(known), default=list(known), help=f"some of {','.join(known)} (default all)"
        )
        command.add_argument("--baseline", default="functional_nn", help="the peer that the ratios are of")
        command.add_argument("--seed", type=int, default=0)

    command = commands.choices["w2"]
    command.add_argument("--models", type=at_least(1), default=8, help="how many are trained at once (default 8)")
    command.add_argument("--hidden", type=sizes, default=[128, 64], help="sizes of hidden layers (default 128,64)")

    command = commands.add_parser("accuracy", help="test accuracy of W1's recipe, over seeds")
    known = accuracy.SIDES
    command.add_argument("--seeds", type=at_least(1), default=10, help="how many (default 10)")
    command.add_argument("--sides", type=some_of(known), default=list(known), help=f"some of {','.join(known)}")

    command = commands.add_parser("depth", help="compile time of repeated blocks")
    command.add_argument("--rounds", type=at_least(1), default=5, help="how often each is compiled (default 5)")

    for name, command in commands.choices.items():
        if name != "depth":
            command.add_argument("--data-dir", type=Path, required=True, help="folder of MNIST's four .gz files")
        command.add_argument(
            "--results",
            type=Path,
            default=records.RESULTS / f"{name}.jsonl",
            help=f"JSON lines to append to (default benchmarks/results/{name}.jsonl)",
        )
    arguments = parser.parse_args()
    if arguments.command != "depth":
        try:
            read_mnist(arguments.data_dir)
        except DataError as error:
            parser.error(f"--data-dir: {error}")
    return arguments


def main() -> None:
    arguments, console = parse_arguments(), Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # nothing is cut off in a file
    if arguments.command == "depth":
        depth.compare(console, arguments.rounds, arguments.results)
    elif arguments.command == "accuracy":
        accuracy.compare(console, arguments.sides, arguments.data_dir, arguments.seeds, arguments.results)
    else:
        run(console, WORKLOADS[arguments.command], arguments)


if __name__ == "__main__":
    main()
