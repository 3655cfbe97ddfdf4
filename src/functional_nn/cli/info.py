"""``functional-nn info``: versions of packages, optional packages and what they are for, and devices."""

from __future__ import annotations

import click

from functional_nn.cli.startup import importing
from functional_nn.core.errors import installed_version, versions
from functional_nn.storage.cache_folder import UnsafeCache, cache_folder

PLOTS = "'functional-nn[plots]'"
OPTIONAL = {
    "matplotlib": ("pictures", PLOTS),
    "jinja2": ("HTML pages", PLOTS),
    "latex2mathml": ("formulas in HTML pages", PLOTS),
    "markdown-it-py": ("text in HTML pages", PLOTS),
    "torch": ("parameters from and for PyTorch", "'functional-nn[torch]'"),
    "flax": ("modules of Flax as layers", "'functional-nn[flax]'"),
    "equinox": ("modules of Equinox as layers", "'functional-nn[equinox]'"),
    "treescope": ("parameters in notebooks", "'functional-nn[notebook]'"),
    "flatbuffers": ("files of exported programs", "'functional-nn[stablehlo]'"),
    "jax2onnx": ("models in ONNX", "'functional-nn[onnx]'"),
    "onnxruntime": ("checks of models in ONNX", "'functional-nn[onnx]'"),
    "libtpu": ("programs for TPUs, also without one", "'functional-nn[tpu-target]'"),
    "jax-cuda13-plugin": ("programs for GPUs, also without one", "'functional-nn[cuda-target]'"),
    "tensorflow": ("TFDS sets whose builder needs it", "tensorflow"),
}
"""The packages of the extras, and TensorFlow: what each is for, and what to install."""


@click.command()
def info() -> None:
    """Print versions, optional packages, the cache folder and devices."""
    for name, number in versions().items():
        click.echo(f"{name:20} {number}")
    for name, (purpose, package) in OPTIONAL.items():
        number = installed_version(name)
        if number is None:
            click.echo(f"{name:20} missing; for {purpose}: pip install {package}")
        else:
            click.echo(f"{name:20} {number}; for {purpose}")
    try:
        cache = cache_folder()
    except UnsafeCache as error:
        cache = f"none: {error}"
    click.echo(f"{'cache':20} {cache}")
    with importing():
        import jax

        from functional_nn.training.devices import device_name

    for device in jax.devices():
        click.echo(f"{'device':20} {device.platform} {device.id}: {device_name(device)}")
