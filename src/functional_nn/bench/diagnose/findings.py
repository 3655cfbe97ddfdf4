"""Warnings about a program: the cause of slowness, the layer, and the remedy."""

from __future__ import annotations

from typing import NamedTuple

from functional_nn.core.display import html_text

KINDS = (
    "convolution in a loop",
    "scatter of a pooling gradient",
    "captured constant",
    "float64",
    "conversion",
    "donation",
    "retracing",
    "slow product",
)
"""All kinds of warnings."""


class Finding(NamedTuple):
    """A cause of slowness.

    Args:
        kind: one of ``KINDS``.
        layer: the path of the layer, and the direction; empty outside of layers.
        message: what was found, in a sentence.
        remedy: what to do, in a sentence.
    """

    kind: str
    layer: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f" in {self.layer}" if self.layer else ""
        return f"{self.kind}{where}: {self.message} {self.remedy}"


class Explanation(NamedTuple):
    """All findings. It prints one line for each finding, or says that there are none.

    >>> print(Explanation(()))
    nothing to warn of
    """

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing to warn of"

    _repr_html_ = html_text

    @property
    def kinds(self) -> set[str]:
        """The kinds of the findings."""
        return {finding.kind for finding in self.findings}

    def to_list(self) -> list[dict[str, str]]:
        """The findings, ready for JSON."""
        return [finding._asdict() for finding in self.findings]
