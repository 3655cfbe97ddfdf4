"""A cache for functions whose arguments may be impossible to hash."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

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
