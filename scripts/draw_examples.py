"""Draws the pictures of the examples for the docs, by running each example in its full mode.

    python scripts/draw_examples.py [NUMBER …]

The colors of each picture are reduced to 64, so that its file is small.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
DRAWN = ("10", "12", "13", "14", "15", "16", "17", "18", "19", "20")


def main(numbers: list[str]) -> None:
    for number in numbers or DRAWN:
        (example,) = (ROOT / "examples").glob(f"{number}_*.py")
        subprocess.run([sys.executable, str(example), "--out", str(IMAGES)], check=True)
        picture = IMAGES / f"{example.stem[3:]}.png"
        with Image.open(picture) as image:
            reduced = image.convert("RGB").quantize(64)
        reduced.save(picture, optimize=True)
        print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
