"""Names of a function's arguments, a cache of results, and JAX's settings of a thread for calls in another one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import jax

from functional_nn.core.trees import PyTree, path_of


def argument_names(function: Callable[..., PyTree], count: int) -> list[str]:
    """The names of a function's first arguments. If their names are not known, their numbers are used.

    >>> argument_names(lambda x, *p: x, 3), argument_names(max, 1)
    (['x', 'p[0]', 'p[1]'], ['argument 0'])
    """
    try:
        given = inspect.signature(function).bind_partial(*range(count)).arguments
    except (TypeError, ValueError):  # functions written in C have no signature
        return [f"argument {number}" for number in range(count)]
    names = []
    for name, value in given.items():  # a tuple has those of ``*p``
        names += [f"{name}[{number}]" for number in range(len(value))] if isinstance(value, tuple) else [name]
    return names


def path_name(path: jax.tree_util.KeyPath, names: Sequence[str] = ()) -> str:
    """Formats the path of an array in a tuple of arguments, such as ``params/dense_0/weight``.

    Args:
        path: the path.
        names: the names of the arguments, which are used on the first level.
    """
    if not path or not names:
        return path_of(path)
    place: int = path[0].idx
    first, rest = names[place], path_of(path[1:])
    return f"{first}/{rest}" if rest else first


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_hashable(value: object) -> bool:
    """Whether a value can be compared with those in a cache. A loss that is a plain dataclass cannot, for example.

    >>> is_hashable((1, "a")), is_hashable((1, []))
    (True, False)
    """
    try:
        hash(value)
    except TypeError:
        return False
    return True


def cached_if_hashable(maxsize: int) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Like ``functools.lru_cache``, but a call with an argument that cannot be hashed computes the result each time.

    >>> @cached_if_hashable(maxsize=8)
    ... def numbers(count):
    ...     return [count]
    >>> numbers(2) is numbers(2), numbers([2]) is numbers([2])
    (True, False)
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        cached = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
            called = cached if is_hashable((arguments, tuple(named.values()))) else function
            return called(*arguments, **named)

        return call

    return decorate


CONTEXTS = {
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_enable_x64": jax.enable_x64,
    "jax_threefry_partitionable": jax.threefry_partitionable,
}
"""The context manager that changes each setting in the thread that enters it."""


def settings_of_this_thread() -> Callable[[], AbstractContextManager[object]]:
    """Returns a function that makes a context with the settings of this thread, to be entered in another one.

    Without it, a program such as ``with jax.default_device(device): fit(…)`` would use this device in its own thread
    only.
    """
    here = {name: getattr(jax.config, name) for name in CONTEXTS}

    def entered() -> AbstractContextManager[object]:
        stack = ExitStack()
        for name, value in here.items():
            # Settings that no context has changed are equal in all threads.
            if getattr(jax.config, name) != value:
                stack.enter_context(CONTEXTS[name](value))
        return stack

    return entered
