"""Mutants that compute the same as the formula they were made from, each with the reason."""

from __future__ import annotations

import re

EQUIVALENT: tuple[tuple[str, str, str], ...] = ()
"""Subject, mutant (both as regular expressions; a mutant reads ``file.py:line: what is wrong``), and the reason."""


def reason_for(subject: str, mutant: str) -> str:
    """Why a surviving mutant is no error; nothing where that is not known."""
    for subjects, mutants, reason in EQUIVALENT:
        if re.fullmatch(subjects, subject) and re.fullmatch(mutants, mutant):
            return reason
    return ""
