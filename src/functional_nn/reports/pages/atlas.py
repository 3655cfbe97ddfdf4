"""The pages of the atlas in Markdown: one for a version of JAX, and one about all versions and what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from functional_nn.storage.files import JsonObject

QUANTITIES = ("value", "gradient", "second derivative")
TYPES = ("float64", "float32")
REGIMES = ("normal", "near ties", "margins", "tails", "near 0", "huge")
"""From the points that a program meets most often to those that it meets rarely."""
WORST = 20
RULES = """\
A **finding** is a number that should be accurate, but has more than half of its digits wrong. How accurate a number can
be depends on its *condition number*: the relative change of the number divided by the relative change of x that causes
it. For a finding, the condition number is at most 1000. If it is above 1, the error is divided by it. After this
division, the error must still be more than half of the digits.

Some points do not count: kinks, the edges of domains, and points near which a derivative jumps. Numbers near the ends
of the type's range do not count either. Nor do results below the smallest normal number, which XLA replaces by 0.

The **exact** numbers are those of the function's own program, evaluated with 50 to 1000 digits by
[the search](../how_to/checking_gradients.md#where-is-it-worst). So an approximation, such as `gelu` with tanh, is
compared with itself and not with the function that it approximates. A gradient is computed by `jax.grad`, and a second
derivative by `jax.grad` twice (for vectors, by `jax.hessian`). Errors are in ULP, units in the last place of the exact
number. If half of the digits are lost, the error is about 5e7 ULP in float64, and 2,000 ULP in float32.
"""


def version_page(atlas: JsonObject, picture: str | None) -> str:
    """The page of one version of JAX.

    Args:
        atlas: the atlas as JSON holds it.
        picture: the name of the picture's file; None if there is none.
    """
    functions = atlas["functions"]
    found = [function for function in functions if function["findings"]]
    count = sum(len(function["findings"]) for function in found)
    evaluated = [function for function in functions if function["rows"]]
    lines = [
        f"# Where JAX {atlas['jax']} loses digits",
        "",
        f"There are {count} findings in {len(found)} of {len(evaluated)} functions. They were found by "
        "`functional-nn atlas`",
        f"with JAX {atlas['jax']}, jaxlib {atlas['jaxlib']} and Optax {atlas['optax']} on a {atlas['platform']}, on "
        f"{atlas['date']}.",
        f"Each function was searched for {atlas['seconds_per_function']:g} seconds of processor time. See also "
        "[the atlas](index.md).",
        "",
        RULES,
    ]
    if picture:
        text = "Error in ULP against x, or against the spread of a vector, for each function with a finding"
        lines += [f"![{text}]({picture})", ""]
    lines += ["## Findings", "", *_preamble()]
    for function in found:
        lines += _findings(function)
    lines += ["## All functions", ""]
    lines += [
        "Each cell has the largest error in ULP, in float64 and in float32. The error is divided by the condition",
        "number if that is above 1. Findings are bold. – means that JAX cannot compute the number, or that no exact",
        "number is known.",
        "",
        "| function | value | gradient | second derivative | points |",
        "|---|---|---|---|---|",
        *(_row(function) for function in evaluated),
        "",
    ]
    missing = [function for function in functions if not function["rows"]]
    if missing:
        lines += ["## Not evaluated", ""]
        lines += [f"- `{function['name']}`: {function['note']}" for function in missing] + [""]
    return "\n".join(lines)


def _preamble() -> list[str]:
    text = (
        "Two lines of code reproduce each finding: the line that defines `f`, and a line that prints. All of them\n"
        "were run while this page was made, after these two lines:"
    )
    code = ["import jax, jax.numpy as jnp, optax", 'jax.config.update("jax_enable_x64", True)']
    return [text, "", "```python", *code, "```", ""]


def _findings(function: JsonObject) -> list[str]:
    """The section of one function: a table, and the code that reproduces each row."""
    lines = [
        f"### `{function['name']}`",
        "",
        "| | regime | ULP | condition | printed | exact |",
        "|---|---|---|---|---|---|",
    ]
    code = []
    for finding in function["findings"]:
        worst = finding["worst"]
        first, second = finding["code"].split("\n")
        if first not in code:
            code.append(first)
        code.append(second)
        lines.append(
            f"| {worst['quantity']}, {worst['dtype']} | {finding['regime']} | {_number(worst['error'])} | "
            f"{_number(worst['condition'])} | {finding['printed']} | {_exact(worst)} |"
        )
    return [*lines, "", "```python", *code, "```", ""]


def _exact(worst: JsonObject) -> str:
    digits = 17 if worst["dtype"] == "float64" else 9
    return f"{float(worst['exact']):.{digits}g}"


def _number(value: float | str) -> str:
    return f"{float(value):.2g}"


def _row(function: JsonObject) -> str:
    findings = {(finding["worst"]["dtype"], finding["worst"]["quantity"]) for finding in function["findings"]}
    of = {(row["dtype"], row["quantity"]): row for row in function["rows"]}
    cells = []
    for quantity in QUANTITIES:
        parts = []
        for dtype in TYPES:
            row = of.get((dtype, quantity))
            text = "–" if row is None else _number(float(row["error"]) / max(1.0, float(row["condition"])))
            parts.append(f"**{text}**" if (dtype, quantity) in findings else text)
        cells.append(" / ".join(parts))
    return f"| `{function['name']}` | {' | '.join(cells)} | {function['evaluations']} |"


def index_page(
    older: JsonObject,
    newer: JsonObject,
    pages: Sequence[str],
    still_wrong: Callable[[JsonObject], bool] | None = None,
) -> str:
    """The page about two versions of JAX: the worst findings of the newer one, and what changed.

    Args:
        older: the atlas of the older version.
        newer: the atlas of the newer version.
        pages: the names of the files of their pages.
        still_wrong: says whether a finding of the older version is reproduced by the newer one; None if this is not
            known, because another version is installed.
    """
    lines = [
        "# An atlas of lost digits",
        "",
        "`jax.grad` differentiates the code of a function, but not all code was written to be differentiated. This",
        "atlas is about functions of JAX and Optax. It lists where a value, a gradient or a second derivative has lost",
        "more than half of its digits. `functional-nn atlas` searches for the worst points of each function, in",
        "float64 and in float32, and runs two lines of code for each finding.",
        "",
        RULES,
        "| JAX | Optax | functions | with a finding | findings | value | gradient | second derivative |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for atlas, page in zip((older, newer), pages, strict=True):
        lines.append(_summary(atlas, page))
    lines += [
        "",
        f"## The worst {WORST}",
        "",
        f"These are findings with JAX {newer['jax']}, one of each function. Numbers without a right digit come first,",
        "and points of normal size come before huge ones.",
        "",
        "| function | | at | printed | exact |",
        "|---|---|---|---|---|",
        *(_worst_row(finding) for finding in worst_findings(newer)),
        "",
        f"## From JAX {older['jax']} to {newer['jax']}",
        "",
        *_changes(older, newer, still_wrong),
        "## How it is made",
        "",
        "```bash",
        "functional-nn atlas --out jax-OLD.md --json jax-OLD.json       # with the older JAX",
        "functional-nn atlas --out jax-NEW.md --json jax-NEW.json       # with the newer JAX",
        "functional-nn atlas --compare jax-OLD.json jax-NEW.json --out index.md",
        "```",
        "",
        "`functional-nn atlas jax.nn.gelu` prints only the findings of the functions that you name.",
        "`fnn.gradients.worst` searches your own functions",
        "([where is it worst?](../how_to/checking_gradients.md#where-is-it-worst)).",
        "",
        "```{toctree}",
        ":hidden:",
        ":glob:",
        "",
        "jax-*",
        "```",
        "",
    ]
    return "\n".join(lines)


def _summary(atlas: JsonObject, page: str) -> str:
    findings = list(_all_findings(atlas))
    evaluated = [function for function in atlas["functions"] if function["rows"]]
    counts = [sum(finding["worst"]["quantity"] == quantity for finding in findings) for quantity in QUANTITIES]
    with_finding = len({finding["function"] for finding in findings})
    numbers = [len(evaluated), with_finding, len(findings), *counts]
    return f"| [{atlas['jax']}]({page}) | {atlas['optax']} | {' | '.join(map(str, numbers))} |"


def _all_findings(atlas: JsonObject) -> Iterator[JsonObject]:
    for function in atlas["functions"]:
        yield from function["findings"]


def worst_findings(atlas: JsonObject) -> list[JsonObject]:
    """The worst findings, one for each function."""

    def rank(finding: JsonObject) -> tuple[bool, int, int]:
        worst = finding["worst"]
        error = float(worst["relative_error"])
        has_no_digit = not error < 0.5  # also NaN
        return not has_no_digit, REGIMES.index(finding["regime"]), QUANTITIES.index(worst["quantity"])

    ordered = sorted(_all_findings(atlas), key=rank)
    # A later entry of a dict replaces an earlier one, so in reversed order the worst one remains.
    first_of = {finding["function"]: finding for finding in reversed(ordered)}
    return sorted(first_of.values(), key=rank)[:WORST]


def _worst_row(finding: JsonObject) -> str:
    worst = finding["worst"]
    point = worst["point"]
    at = str([float(f"{x:.6g}") for x in point]) if isinstance(point, list) else repr(point)
    name = f"{worst['quantity']}, {worst['dtype']}"
    return f"| `{finding['function']}` | {name} | {at} | {finding['printed']} | {_exact(worst)} |"


def _changes(older: JsonObject, newer: JsonObject, still_wrong: Callable[[JsonObject], bool] | None) -> list[str]:
    """What the newer version mended, what it lost, and what only one of the two could be asked about."""
    before, after = (_kinds(atlas) for atlas in (older, newer))
    known_before, known_after = ({f["name"] for f in atlas["functions"] if f["rows"]} for atlas in (older, newer))
    both = known_before & known_after
    gone = [finding for finding in _all_findings(older) if _kind(finding) not in after and finding["function"] in both]
    if still_wrong is not None:
        gone = [finding for finding in gone if not still_wrong(finding)]
    mended = sorted({_kind(finding) for finding in gone})
    lost = sorted(kind for kind in after - before if kind[0] in both)
    only_new = sorted(known_after - known_before)
    only_old = sorted(known_before - known_after)
    lines = []
    how = "the search found none, and the code of the older ones now prints right numbers"
    if still_wrong is None:
        how = "the search found none"
    lines += [f"**Findings that are gone** ({how}):", "", *_by_function(mended), ""]
    lines += ["**New findings** (the earlier search may have missed them):", "", *_by_function(lost), ""]
    for title, names in (("Only in the newer atlas", only_new), ("Only in the older atlas", only_old)):
        if names:
            lines += [f"**{title}**: {', '.join(f'`{name}`' for name in names)}.", ""]
    return lines


def _kinds(atlas: JsonObject) -> set[tuple[str, str, str]]:
    return {_kind(finding) for finding in _all_findings(atlas)}


def _kind(finding: JsonObject) -> tuple[str, str, str]:
    return finding["function"], finding["worst"]["quantity"], finding["worst"]["dtype"]


def _by_function(kinds: Iterable[tuple[str, str, str]]) -> list[str]:
    lines = [
        f"- `{name}`: {', '.join(f'{quantity} in {dtype}' for _, quantity, dtype in group)}"
        for name, group in groupby(kinds, key=lambda kind: kind[0])
    ]
    return lines or ["- none"]
