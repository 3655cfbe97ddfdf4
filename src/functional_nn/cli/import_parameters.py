"""``functional-nn import``: parameters from a file of PyTorch, as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from functional_nn.cli.startup import COMPILATION_CACHE, importing
from functional_nn.configuration.flag_types import PAIRS, PATH, FlagValue
from functional_nn.configuration.settings import Configuration, GroupedCommand, with_settings
from functional_nn.core.errors import InputError, escaped, versions

if TYPE_CHECKING:
    from functional_nn.core.layer import Layer, Params, State


@click.command("import", cls=GroupedCommand, context_settings={"show_default": True})
@click.argument("file", type=PATH, metavar="FILE")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="The new run folder.")
@PAIRS
@with_settings("import")
@COMPILATION_CACHE
def import_parameters(file: Path, out: Path, pairs: tuple[tuple[str, str], ...], **flags: FlagValue) -> None:
    """Make a run folder from a file of trained parameters.

    FILE is a state dict of PyTorch in a safetensors file. The network that --model and the other flags describe must
    have the same layers. The folder is for predict, report, export and train --from. A file cannot be run, so the
    network is evaluated on the test images instead: look at its accuracy.
    """
    _check_file(file)
    with importing():
        import jax

        from functional_nn.cli.trained_run import test_metrics
        from functional_nn.core import trees
        from functional_nn.exchange.saved_networks import check_finite
        from functional_nn.storage import run_folder
        from functional_nn.storage.files import checksum_of, new_folder, unchanged
        from functional_nn.training.precision import as_precision
        from functional_nn.training.state import create_train_state

    configuration = Configuration(**flags).completed()
    with new_folder("--out", out) as whole:  # before the data are loaded, which may take long
        data = configuration.load_data()
        in_shape = data.train_images.shape[1:]
        with jax.enable_x64(configuration.precision == "float64"):
            recipe = configuration.recipe(data.classes, len(data.train_images))
            with unchanged([file]):
                params, state = _read(file, recipe.net, in_shape, dict(pairs) or None)
                origin = {"file": file.name, "sha256": checksum_of(file.resolve())}
            check_finite(params, state, file)
            precision = as_precision(configuration.precision)
            train_state = create_train_state(
                recipe.net, recipe.optimizer, jax.random.key(0), in_shape, precision, (params, state)
            )
            metrics = test_metrics(recipe, train_state, data, configuration.precision)
        about = data.about() | {"data_sha256": data.checksum(), "versions": versions()}
        run_folder.create_run_folder(whole, configuration.to_dict() | about | {"imported_from": origin})
        result = {"epochs": 0, "status": "imported", "message": "", "parameters": trees.size(params)}
        result |= {**metrics, "config": configuration.to_dict()}
        run_folder.finish_run_folder(whole, params, state, (), result)
    click.echo(f"{escaped(str(out))}: {trees.size(params):,} parameters of {configuration.model}")
    click.echo(f"test accuracy {metrics['test_accuracy']:.4f} on {data.describe()}")


def _check_file(file: Path) -> None:
    """Requires a file, before the data are loaded."""
    from functional_nn.core.errors import DataError

    if not file.is_file():
        remedy = "A folder that export --to hub wrote is a run folder already: give it to predict or to train --from."
        given = ("a folder", remedy) if file.is_dir() else ("no such file",)
        raise DataError(str(file), "a file of parameters", *given)


def _read(file: Path, net: Layer, in_shape: tuple[int, ...], names: dict[str, str] | None) -> tuple[Params, State]:
    """The parameters and the state in a file of PyTorch, in the types of the network."""
    import jax
    import numpy as np

    from functional_nn.core.shapes import cast
    from functional_nn.exchange.torch import from_torch

    shapes = jax.eval_shape(lambda key: net.init(key, in_shape), jax.random.key(0))
    # Files often have half precision. The network has one floating-point type, which is that of its first parameter.
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(shapes)), np.dtype(np.float32))
    try:
        with jax.enable_x64(True):  # a file may have numbers of 64 bits
            return cast(from_torch(net, file, in_shape, names=names, check=False), dtype)
    except InputError as error:
        if error.argument == "net":
            error.remedy = "Change --model, --hidden and --batch-norm. Or pair layers by --pair OURS=THEIRS."
        raise
