"""A process for one part: `python -m benchmarks.accelerator.worker PART SETTINGS`, with the settings as JSON.

It writes a JSON line for each record. If the part fails, the last line has the key `problem`.
"""

import argparse
import importlib
import json
import os
import traceback
from pathlib import Path

from benchmarks.accelerator.parts import PARTS, Measure, Settings


def shortened(error: BaseException, most: int = 300) -> str:
    """The type and the first line of an error's message."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line}"[:most].removesuffix(": ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator.worker")
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("settings", type=json.loads)
    arguments = parser.parse_args()
    given = arguments.settings
    settings = Settings(**given | {"data_dir": Path(given["data_dir"])})

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error, away from the replies

    def reply(record: dict) -> None:
        print(json.dumps(record), file=replies, flush=True)

    module, function = PARTS[arguments.part].measure.split(":")
    try:
        measure: Measure = getattr(importlib.import_module(module), function)
        for record in measure(settings):
            reply(record)
    except Exception as error:
        traceback.print_exc()
        reply({"problem": shortened(error)})


if __name__ == "__main__":
    main()
