"""A process that compiles for one side: `python -m benchmarks.compilation.worker SIDE TRAIN TEST`.

TRAIN and TEST are the numbers of images. It answers each name of a network on its standard input with a JSON line of
seconds. JAX's compilation cache is off.
"""

import json
import sys

import jax

from benchmarks.compilation.sides import SIDES, Sizes


def main() -> None:
    side, sizes = SIDES[sys.argv[1]], Sizes(*map(int, sys.argv[2:]))
    jax.config.update("jax_enable_compilation_cache", False)
    for line in sys.stdin:
        print(json.dumps({"seconds": side(line.strip(), sizes)}), flush=True)


if __name__ == "__main__":
    main()
