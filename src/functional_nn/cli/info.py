"""``functional-nn info``: versions, devices, and what is optional and missing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from functional_nn.cli.startup import importing
from functional_nn.storage.cache_folder import UnsafeCache, safe_cache_folder

REQUIRED = ("functional-nn", "jax", "jaxlib", "numpy", "optax", "tensorflow-datasets")
OPTIONAL = {
    "matplotlib": "pictures: pip install 'functional-nn[plots]'",
    "pandas": "tables of sweeps as data frames and Parquet: pip install 'functional-nn[sweeps]'",
    "tensorflow": "TFDS sets whose builder needs it: pip install tensorflow",
}


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that matter to a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in REQUIRED}


@click.command()
def info() -> None:
    """Print versions, devices, and what is optional and missing."""
    for name, number in versions().items():
        click.echo(f"{name:20} {number}")
    for name, purpose in OPTIONAL.items():
        click.echo(f"{name:20} {_version(name) or f'missing; for {purpose}'}")
    click.echo(f"{'cache':20} {_cache()}")
    with importing():
        import jax

    for device in jax.devices():
        click.echo(f"{'device':20} {device.platform} {device.id}: {device.device_kind}")


def _cache() -> str:
    """Where compiled programs and decoded data sets are kept, or why they are not."""
    try:
        return str(safe_cache_folder())
    except UnsafeCache as error:
        return f"none: {error}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
