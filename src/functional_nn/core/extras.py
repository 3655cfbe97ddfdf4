"""Optional libraries: imported only when they are needed, with an error that says how to install them; versions."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from functional_nn.core.errors import InputError


def imported(module: str, package: str, argument: str, *, extra: str = "") -> ModuleType:
    """A module of another library.

    Args:
        module: the name by which it is imported.
        package: the name by which it is installed.
        argument: what needs it, for the message.
        extra: the extra of this package that installs it; by default of the same name.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        remedy = f"Install it: pip install 'functional-nn[{extra or package}]'"
        raise InputError(argument, f"{package} to be installed", str(error), remedy) from None


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
