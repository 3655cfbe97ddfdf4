"""Checks of arguments: types, ranges, parameters, state, shapes and random keys.

Each check raises ``InputError``, or gives the value back. The value of a traced array is not known, so only its shape
and type are checked. Checks add nothing to a program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import signature
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeGuard, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from functional_nn.core.errors import InputError, check, check_no_gaps, shortened, shown
from functional_nn.core.masked import Masked
from functional_nn.core.shapes import Shape, is_shape, shape_error
from functional_nn.core.texts import counted, is_count, suggest

Tree = TypeVar("Tree")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LARGEST = 2**31 - 1
"""The largest length of an axis or a loop, and the largest integer, that arguments may give."""


def is_array(value: object) -> TypeGuard[jax.Array]:
    """Whether a value is an array, of JAX or of NumPy."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def is_numeric(array: jax.Array | np.ndarray) -> bool:
    """Whether an array holds real numbers or booleans, not keys, texts, objects or complex numbers."""
    is_number = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.integer, jnp.floating))
    # NumPy takes durations for integers, and has numbers of 128 bits, which JAX lacks.
    return array.dtype == bool or (is_number and array.dtype.kind != "m" and array.dtype.itemsize <= 8)


def check_count(argument: str, value: object, *, least: int = 1, most: int = LARGEST) -> int:
    """Requires a whole number from ``least`` to ``most``.

    >>> check_count("epochs", 0)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: epochs: expected a positive integer, got 0.
    """
    if not is_count(value, least=least, most=most):
        limit = f" up to {most:,}" if isinstance(value, Integral) and int(value) > most else ""
        kind = "a positive integer" if least == 1 else f"an integer not below {least}"
        raise InputError(argument, kind + limit, shown(value))
    return int(value)


def check_part(argument: str, part: Any) -> tuple[int, int]:
    """Requires the number of a part, from 1, and the number of parts."""
    number, parts = part if isinstance(part, tuple) and len(part) == 2 else (0, 0)
    expected = "(k, n): the number of the part, from 1 to n, and the number of parts"
    check(argument, part, expected, is_count(parts) and is_count(number, most=parts))
    return int(number), int(parts)


def check_counts(argument: str, values: Any, expected: str = "a tuple of positive integers") -> tuple[int, ...]:
    """Requires a sequence of positive whole numbers."""
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    check(argument, values, expected, is_sequence, "A single one is written (128,).")
    return tuple(check_count(argument, value) for value in values)


def check_number(
    argument: str, value: Any, expected: str = "a finite number", holds: Callable[[float], bool] = np.isfinite
) -> Any:
    """Requires a single real number for which a condition holds. The condition is not checked for a traced number.

    >>> check_number("rate", 1.5, "a number in [0, 1)", lambda rate: 0 <= rate < 1)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: rate: expected a number in [0, 1), got 1.5.
    """
    if is_array(value):
        is_number = not value.ndim and is_numeric(value) and value.dtype != bool
    else:
        is_too_large = isinstance(value, Integral) and abs(int(value)) > LARGEST  # it may not fit in a float
        is_number = isinstance(value, Real) and not isinstance(value, bool) and not is_too_large
    if is_number and isinstance(value, Tracer):
        return value
    check(argument, value, expected, is_number and holds(float(value)))
    return value if is_array(value) else float(value)


def check_flag(argument: str, value: object, remedy: str = "") -> bool:
    """Requires True or False."""
    check(argument, value, "True or False", isinstance(value, bool | np.bool_), remedy)
    return bool(value)


def check_dtype(value: DTypeLike | None) -> np.dtype:
    """Requires a type of numbers; gives it as a NumPy type."""
    try:
        dtype = jnp.dtype(value)
    except (TypeError, ValueError):
        dtype = None
    if value is None or dtype is None or dtype.hasobject or not is_numeric(np.zeros((), dtype)):
        raise InputError("dtype", "a type of numbers, such as jax.numpy.float32", shown(value))
    return dtype


def check_choice(argument: str, value: object, known: Collection[str]) -> str:
    """Requires one of the known names.

    >>> check_choice("axis", "colum", ["row", "column"])
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: axis: expected a known name, got 'colum'. Did you mean column? ...
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(argument, "a known name", shown(value), suggest(str(value), known))
    return value


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Whether a value is a function that can be called. A layer is not: calling one only raises an explanation."""
    return callable(value) and not hasattr(value, "takes_mask")


def is_of_pytorch(value: object) -> bool:
    """Whether a value is a function of PyTorch, or an object of one of its classes, such as a module or a tensor."""
    modules = [getattr(value, "__module__", None), *(kind.__module__ for kind in type(value).__mro__)]
    return any(module == "torch" or str(module).startswith("torch.") for module in modules)


def check_function(argument: str, value: Any, expected: str, takes: str = "") -> Callable[..., object]:
    """Requires a function; gives it back.

    Args:
        argument: the name of the argument, for the error.
        value: what was given.
        expected: what it has to be, for the error.
        takes: the names of what it is called with, by place. If there are any, it has to take as many.

    >>> check_function("loss", lambda y: y, "a function", "y, labels")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: loss: expected a function, got one with the arguments (y). It is called ...
    """
    check(argument, value, expected, is_function(value))
    if takes:
        count = takes.count(",") + 1
        try:
            known = signature(value)
        except (TypeError, ValueError):  # some functions that are written in C do not say what they take
            return value
        try:
            known.bind(*range(count))
        except TypeError:
            remedy = f"It is called with {counted(count, 'argument')}: ({takes})."
            raise InputError(argument, expected, f"one with the arguments {shortened(known)}", remedy) from None
    return value


def in_native_order(value: Any) -> Any:
    """A NumPy array in this machine's byte order; any other value as it is. JAX does not accept the other order.

    >>> in_native_order(np.array([1.0, 2.0], ">f4"))
    array([1., 2.], dtype=float32)
    """
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


def tree_in_native_order(tree: Tree) -> Tree:
    """A pytree with its NumPy arrays in this machine's byte order."""
    return jax.tree.map(in_native_order, tree)


def tree_of_jax(argument: str, tree: Tree) -> Tree:
    """A pytree with JAX's arrays in place of NumPy's."""
    return jax.tree.map(
        lambda leaf: as_array(argument, leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf, tree
    )


def check_integers_fit(argument: str, array: np.ndarray) -> None:
    """Requires integers that fit in the type that JAX computes in. It would keep only the low 32 bits of others.

    >>> check_integers_fit("labels", np.array([3, 2**32]))
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: labels: expected integers that int32 holds, got 4294967296 at index (1,). ...
    """
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype or not np.issubdtype(array.dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    remedy = 'Convert them to float32, or call jax.config.update("jax_enable_x64", True) first.'
    check_elements(
        argument, array, lambda n: (n >= limits.min) & (n <= limits.max), f"integers that {dtype} holds", remedy
    )


def check_elements(
    argument: str,
    array: jax.Array | np.ndarray,
    are_good: Callable[[np.ndarray], np.ndarray],
    expected: str,
    remedy: str = "",
) -> None:
    """Requires a condition of every number, unless the array is traced. The error shows the first that does not fit.

    >>> check_elements("weights", np.array([1, -2]), lambda weights: weights >= 0, "weights not below 0")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: weights: expected weights not below 0, got -2 at index (1,).
    """
    if is_concrete(array):
        host = np.asarray(array)
        for index in np.argwhere(~are_good(host))[:1]:
            where = tuple(index.tolist())
            raise InputError(argument, expected, f"{host[where]} at index {where}", remedy)


def as_array(argument: str, value: object) -> jax.Array:
    """The value as a JAX array of numbers."""
    if isinstance(value, np.ndarray | np.generic):
        check_integers_fit(argument, in_native_order(np.asarray(value)))
    return _numbers(argument, value, lambda value: value if isinstance(value, Tracer) else jnp.asarray(value))


def as_host_array(argument: str, value: object) -> np.ndarray:
    """The value as a NumPy array of numbers."""
    return _numbers(argument, value, np.asarray)


def as_examples(argument: str, value: object, in_shape: Shape) -> np.ndarray:
    """The value as a NumPy array of numbers, with examples of this shape along the first axis.

    >>> as_examples("x", [5, 6], (2,))
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: x: expected a batch of examples, (examples, 2), got ...
    """
    x = as_host_array(argument, value)
    expected = f"a batch of examples, (examples, {', '.join(map(str, in_shape))})"
    remedy = f"For one example, give {argument}[None]." if x.shape == in_shape else ""
    check(argument, x, expected, x.shape[1:] == in_shape, remedy)
    return x


def _numbers(argument: str, value: object, convert: Callable[[Any], Any]) -> Any:
    check_no_gaps(argument, value)
    try:
        array = in_native_order(convert(in_native_order(value)))
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or not is_numeric(array):
        is_column = isinstance(value, np.ndarray) or hasattr(value, "to_numpy")  # a column of pandas
        names = list(np.asarray(value).flat) if is_column else value
        are_names = isinstance(names, list | tuple) and len(names) and all(isinstance(name, str) for name in names)
        remedy = "Write np.unique(labels, return_inverse=True)[1]." if argument.endswith("labels") and are_names else ""
        raise InputError(argument, "an array of numbers", shown(value), remedy)
    return array


def check_arrays(argument: str, value: object) -> None:
    """Requires an array with a batch axis, a ``Masked`` sequence of such arrays, or a tuple or a dict of these."""
    if isinstance(value, tuple) and value and not isinstance(value, Masked):
        for part in value:
            check_arrays(argument, part)
        return
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            check_arrays(f"{argument}/{name}", part)
        return
    for array in value if isinstance(value, Masked) else (value,):
        remedy = "Write jax.numpy.asarray(…)." if isinstance(value, list) else ""
        if not is_array(array) and hasattr(array, "__array__"):  # a tensor of PyTorch, or a table of pandas
            remedy = f"Write {argument}.{'numpy' if hasattr(array, 'numpy') else 'to_numpy'}()."
        is_batch = is_array(array) and is_numeric(array) and array.ndim
        check(argument, array, "an array of numbers with a leading batch axis", is_batch, remedy)


EXAMPLES = "functional_nn:examples"
"""The name of the mapped axis over examples that are computed one by one; see ``check_batch_is_whole``."""


def without_input_size(*names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator for a layer's constructor with these positional arguments. It explains a call with an input size.

    >>> import functional_nn as fnn
    >>> fnn.dense(784, 10)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: dense: expected out_size alone, got 784, 10. The input size is not given: ...
    >>> fnn.batch_norm(128)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: batch_norm: expected only named arguments, got 128. The input ...
    """

    def decorate(constructor: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(constructor)
        def checked(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            if len(arguments) > len(names):
                name = constructor.__name__
                expected = " and ".join(names) or "only named arguments"
                if len(names) == 1:
                    expected = f"{expected} alone"
                call = f"{name}({', '.join(map(shown, arguments[len(arguments) - len(names) :]))})"
                remedy = f"The input size is not given: init takes it from in_shape. Write {call}."
                raise InputError(name, expected, ", ".join(map(shown, arguments)), remedy)
            return constructor(*arguments, **options)

        return checked

    return decorate


def check_trees(params: object, state: object) -> None:
    """Requires nested dicts of arrays."""
    for argument, tree in (("params", params), ("state", state)):
        check(argument, tree, "a dict, as init gave it", isinstance(tree, Mapping))
        for leaf in jax.tree.leaves(tree):
            check(argument, leaf, "a nested dict of arrays", is_array(leaf) and is_numeric(leaf))


def is_concrete(*values: object) -> bool:
    """Whether no value is traced: under ``jit``, ``grad`` or ``vmap`` values are not known."""
    return not any(isinstance(value, Tracer) for value in values)


OWN_ENTRIES = "Use what this network's own init gave."


def check_entries(argument: str, tree: Mapping[str, Any], names: Sequence[str]) -> None:
    """Requires these entries in parameters or state; those of another layer lack them."""
    if not isinstance(tree, Mapping) or any(name not in tree for name in names):
        entries = ", ".join(map(str, tree)) if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise InputError(argument, f"entries {', '.join(names)}", entries or "nothing", OWN_ENTRIES)
    for name in names:
        check(f"{argument}/{name}", tree[name], "an array, or a dict of arrays", tree[name] is not None)


def check_entry_shapes(argument: str, tree: Mapping[str, Any], shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Requires entries of these shapes. A name stands for a size that depends on the input, such as ``"in_size"``.

    >>> check_entry_shapes("params", {"weight": jnp.ones((3, 2))}, {"weight": ("in_size", 5)})
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: params/weight: expected shape (in_size, 5), got float32 of shape (3, 2). ...
    """
    check_entries(argument, tree, tuple(shapes))
    for name, shape in shapes.items():
        entry = tree[name]
        fits = is_array(entry) and entry.ndim == len(shape)
        fits = fits and all(isinstance(size, str) or size == own for size, own in zip(shape, entry.shape, strict=True))
        expected = f"shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        check(f"{argument}/{name}", entry, expected, fits, OWN_ENTRIES)


def check_shape(in_shape: Shape, axes: str, remedy: str = "") -> Shape:
    """Requires the shape of an example with these axes, such as ``(…, in_size)``; gives it as a tuple.

    >>> check_shape((5,), "(time, in_size)")
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: in_shape: expected (time, in_size), got (5,). It leaves out the batch ...
    """
    if not is_shape(in_shape) or not in_shape or min(in_shape) < 1 or not _has_axes(in_shape, axes):
        raise shape_error(in_shape, axes, remedy)
    return tuple(in_shape)


def check_input(x: jax.Array, axes: str, features: int | None = None, *, remedy: str = "", argument: str = "x") -> None:
    """Requires floating-point numbers with these axes, and with this many features on the last one.

    Args:
        x: the input.
        axes: such as ``(batch, …, in_size)``, where "…" stands for any number of axes.
        features: the size of the last axis, which the parameters have.
        remedy: what to do about another number of axes.
        argument: the name of the input.

    >>> check_input(jnp.ones((7, 2)), "(batch, …, in_size)", 3)
    Traceback (most recent call last):
        ...
    functional_nn.core.errors.InputError: x: expected 3 features on the last axis, got 2 (shape (7, 2)). Call init ...
    """
    check_floating(x, argument)
    check(argument, x, axes, _has_axes(x.shape, axes), "Add a batch axis: x[None]." if x.ndim < 2 else remedy)
    if features is not None and x.shape[-1] != features:
        kind = "channel" if axes.endswith("channels)") else "feature"
        is_flat = kind == "feature" and "…" in axes
        flatten = " If x are images, put flatten() before this layer." if is_flat and x.ndim > 2 else ""
        expected, given = f"{counted(features, kind)} on the last axis", f"{x.shape[-1]} (shape {x.shape})"
        raise InputError(argument, expected, given, f"Call init with this in_shape.{flatten}")


def _has_axes(shape: Sequence[int], axes: str) -> bool:
    """Whether a shape has these axes, where "…" stands for any number of them.

    >>> [_has_axes(shape, "(batch, …, in_size)") for shape in ((7,), (7, 3), (7, 5, 3))]
    [False, True, True]
    """
    names = axes.strip("(,)").split(", ")
    return len(shape) >= len(names) - 1 if "…" in names else len(shape) == len(names)


def check_one_array(x: jax.Array, argument: str = "x") -> None:
    """Requires one array, for layers that take a single input."""
    check(argument, x, "one array", is_array(x))


def check_floating(x: jax.Array, argument: str = "x") -> None:
    """Requires one array of floating-point numbers. Images as uint8 would be used as values up to 255."""
    check_one_array(x, argument)
    remedy = "Convert images by functional_nn.data.scaled_bytes(x); put embedding() before it if x are tokens."
    check(argument, x, "floating-point numbers", jnp.issubdtype(x.dtype, jnp.floating), remedy)


def check_key(key: object) -> jax.Array:
    """Requires a PRNG key. JAX's old keys, arrays of integers, are accepted too."""
    # How many integers an old key has depends on JAX's default generator.
    is_key = is_array(key) and (
        (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == jnp.uint32 and key.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape)
    )
    expected = "a key, since random numbers are drawn here" if key is None else "one key"
    check("key", key, expected, is_key, "Pass key=jax.random.key(seed).")
    return cast(jax.Array, key)


def check_batch_is_whole() -> None:
    """Requires a whole batch, for layers whose output for one example depends on the others."""
    # If no such axis is mapped around this call, JAX raises a NameError.
    try:
        jax.lax.axis_index(EXAMPLES)
    except NameError:
        return
    remedy = "Use a layer that treats examples alone (layer_norm, group_norm), or train=False."
    raise InputError("x", "a whole batch, since this layer couples its examples", "single examples", remedy)
