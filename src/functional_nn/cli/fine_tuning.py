"""Training that starts from an earlier run: its settings, its parameters, and those that keep their values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from functional_nn.configuration.settings import SETTINGS, Configuration, flag_of
from functional_nn.core.errors import DataError, InputError, check, shown

if TYPE_CHECKING:
    import jax

    from functional_nn.core.layer import Layer, Params, State
    from functional_nn.data.dataset import Dataset
    from functional_nn.storage.files import JsonObject


def with_settings_of(
    flag: str, run: Path, values: JsonObject, configuration: Configuration, *groups: str
) -> Configuration:
    """The configuration with settings of an earlier run, where no flag says otherwise.

    The data are never taken from the earlier run. Its folder may come from a stranger, who must not choose which files
    of this computer are opened.

    Args:
        flag: the flag that names the run, for errors.
        run: the folder of the earlier run.
        values: the configuration of the earlier run, as read from its file.
        configuration: that of the new run.
        groups: the groups of the settings that are taken from the earlier run.

    Raises:
        DataError: if the values are not those of a run.
        InputError: if the earlier run had other data than the digits in the package, and no flag names the new run's.
    """
    from functional_nn.data.sources import EMBEDDED, path_prefix

    earlier = Configuration.from_dict(values, run)
    context = click.get_current_context()

    def is_free(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.DEFAULT

    if not is_free("model") and configuration.model != earlier.model:
        raise InputError(flag, f"a run of the model {configuration.model}", f"{run}, a run of {earlier.model}")
    kept = {name for name, one in SETTINGS.items() if one.group in groups} - {"dataset", "data_dir"}
    names = [name for name in SETTINGS if name in kept and is_free(name)]
    if is_free("dataset"):
        prefix = path_prefix(earlier.dataset)
        if earlier.dataset != EMBEDDED and (prefix or is_free("data_dir")):
            needed = f"--dataset {prefix}PATH" if prefix else "--data-dir"
            remedy = f"It was trained on {shown(earlier.dataset)}. For safety, the folder cannot choose the data."
            raise InputError(flag, f"the data to train on, by {needed}", f"{run} without this flag", remedy)
        names.append("dataset")
    taken = {name: getattr(earlier, name) for name in names}
    if "devices" in taken:  # each device that JAX makes of a CPU takes memory and threads
        taken["devices"] = min(earlier.devices, os.cpu_count() or 1)
    return replace(configuration, **taken)


def start_from(
    run: Path, values: JsonObject, net: Layer, configuration: Configuration, data: Dataset
) -> tuple[Params, State, list[str]]:
    """The parameters and the state of an earlier run for a new network, and the paths that start anew.

    For another number of classes, the parameters of the last layer start anew. ``values`` is the configuration of the
    earlier run whose settings the new one has.

    Raises:
        DataError: if the folder has no finished run, is damaged, or has another run than the one with these values.
        InputError: if the images have another shape, or if other parameters are missing, too many, or differ.
    """
    import jax

    from functional_nn.core import trees
    from functional_nn.exchange.saved_networks import load

    earlier = load(run)
    if earlier.configuration != Configuration.from_dict(values, run):
        raise DataError(str(run), "the run whose settings were read before", "another one", "Start again.")
    earlier = earlier.without_augmentation()
    in_shape = data.train_images.shape[1:]
    if in_shape != earlier.in_shape:
        remedy = "Give data of that shape; --image-size and --image-color change images of a folder."
        raise InputError("--from", f"examples of the shape {in_shape}", f"a run of examples {earlier.in_shape}", remedy)
    columns = [one and one.names for one in (earlier.features, data.features)]
    check("--from", columns[1], f"the columns {columns[0]}, in this order", columns[0] == columns[1])
    # The seed is the run's, so that what starts anew has the values that it would have without --from.
    params, state = net.init(jax.random.key(configuration.seed), in_shape)
    old = trees.flatten({"params": earlier.params, "state": earlier.state})
    new = {_name(path, configuration): leaf for path, leaf in trees.flatten({"params": params, "state": state}).items()}
    anew = [path for path, leaf in new.items() if path in old and _kind(old[path]) != _kind(leaf)]
    has_same_sizes = earlier.configuration.hidden == configuration.hidden
    classes = earlier.classes, data.classes
    others = [path for path in anew if not (has_same_sizes and _differ_by_classes(old[path], new[path], classes))]
    if different := [*sorted(old.keys() ^ new.keys()), *others]:
        flags = ", ".join(flag_of(name) for name in ("model", "hidden", "batch_norm", "precision"))
        given = ", ".join(f"{path} {_kind(old[path]) if path in old else ''}".rstrip() for path in different[:5])
        raise InputError("--from", f"a run of the same network ({flags})", f"{run}, which differs in {given}")

    def started(path: str, leaf: jax.Array) -> jax.Array:
        name = _name(path, configuration)
        return leaf if name in anew else old[name]

    tree = trees.map_with_path(started, {"params": params, "state": state})
    return tree["params"], tree["state"], anew


def check_freeze(configuration: Configuration, net: Layer, data: Dataset) -> None:
    """Requires that ``--freeze`` matches parameters, and leaves some to train."""
    import jax

    from functional_nn.core import trees

    if configuration.freeze is None:
        return
    params, _ = jax.eval_shape(lambda key: net.init(key, data.train_images.shape[1:]), jax.random.key(0))
    paths = list(trees.flatten(params))
    known = [configuration.network_path(path) for path in paths]
    for pattern in configuration.frozen_patterns or ("",):
        is_matched = any(fnmatchcase(path, pattern) for path in known)
        remedy = f"There are: {', '.join(known)}."
        check("--freeze", pattern, "patterns that each match a parameter", is_matched, remedy)
    is_trained = not all(map(configuration.is_frozen, paths))
    check("--freeze", configuration.freeze, "patterns that leave parameters to train", is_trained)


def check_same_start(out: Path, origin: Mapping[str, JsonObject]) -> None:
    """Requires that a run that goes on started from the same run as before.

    Args:
        out: the folder of the run that goes on.
        origin: the entry ``from`` of its configuration; empty without ``--from``.
    """
    from functional_nn.storage import run_folder

    if not (out / run_folder.CONFIGURATION).exists():
        return
    before = run_folder.read_configuration(out).get("from")
    if before != origin.get("from"):
        name = before.get("run") if isinstance(before, dict) else None
        expected = f"--from with the run that {out} started from ({name})" if before else "no --from, as before"
        raise InputError("--resume", expected, "another start", "Use the flags of that run, or another --out.")


def _kind(array: jax.Array) -> str:
    return f"{array.dtype}{array.shape}"


def _differ_by_classes(old: jax.Array, new: jax.Array, classes: tuple[int, int]) -> bool:
    """Whether two arrays differ only in their last axis, which has a place for each class."""
    has_same_rest = (old.dtype, old.shape[:-1]) == (new.dtype, new.shape[:-1])
    return has_same_rest and (old.shape[-1:], new.shape[-1:]) == (classes[:1], classes[1:])


def _name(path: str, configuration: Configuration) -> str:
    """The path of an array, after ``params`` or ``state``, in the network without augmentation."""
    kind, _, rest = path.partition("/")
    return f"{kind}/{configuration.network_path(rest)}"
