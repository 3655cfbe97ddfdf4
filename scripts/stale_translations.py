"""Chinese pages that are older than their English originals, by the dates of their last commits.

Run it in the repository: python scripts/stale_translations.py. It prints what to translate again, and fails nothing.
"""

import subprocess
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def originals() -> dict[Path, Path]:
    """Maps each Chinese page that is a translation to its English original."""
    pages = {ROOT / "README.zh-CN.md": ROOT / "README.md"}
    for page in sorted((ROOT / "docs" / "zh").glob("[0-9]*.md")):
        pages[page] = ROOT / "docs" / "tutorial" / page.name
    return pages


def last_commit(page: Path) -> datetime:
    command = ["git", "log", "-1", "--format=%cI", "--", str(page)]
    return datetime.fromisoformat(
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    )


def main() -> None:
    for translation, original in originals().items():
        days = (last_commit(original) - last_commit(translation)).total_seconds() / 86400
        if days > 0:
            print(f"{translation.relative_to(ROOT)}: {original.relative_to(ROOT)} was changed {days:.1f} days later")


if __name__ == "__main__":
    main()
