"""Importing libraries that are needed only for an exchange with them."""

from __future__ import annotations

import importlib
from types import ModuleType

from functional_nn.core.errors import InputError


def imported(module: str, package: str, argument: str) -> ModuleType:
    """A module of another library.

    Args:
        module: the name by which it is imported.
        package: its name, which is also that of the extra that installs it.
        argument: what needs it, for the message.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        remedy = f"Install it: pip install 'functional-nn[{package}]'"
        raise InputError(argument, f"{package} to be installed", str(error), remedy) from None
