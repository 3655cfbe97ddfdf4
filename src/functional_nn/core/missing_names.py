"""What to write in place of a name that the package does not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from functional_nn.core.suggestions import nearest


def missing_name(name: str, top_level: Iterable[str], namespaces: Mapping[str, Iterable[str]]) -> AttributeError:
    """The error for ``functional_nn.name``, with the name that was probably meant.

    >>> print(missing_name("desne", ["dense", "conv"], {}))
    module 'functional_nn' has no attribute 'desne'. Did you mean dense?
    >>> print(missing_name("make_epoch", ["dense"], {"training": ["make_epoch"]}))
    module 'functional_nn' has no attribute 'make_epoch'. Did you mean fnn.training.make_epoch?
    """
    qualified = {inner: f"fnn.{namespace}.{inner}" for namespace, names in namespaces.items() for inner in names}
    places = qualified | {top: top for top in top_level}
    if name not in places and (optax_name := _in_optax(name)):
        remedy = f"Optimizers and schedules are Optax's: use optax.{optax_name}."
    elif meant := nearest(name, places):
        remedy = f"Did you mean {places[meant]}?"
    else:
        remedy = "See docs/reference/index.md for all names."
    return AttributeError(f"module 'functional_nn' has no attribute {name!r}. {remedy}", name=name)


def _in_optax(name: str) -> str | None:
    """The name in Optax, which is in lower case; None where Optax does not have it."""
    import optax

    return next((spelling for spelling in (name, name.lower()) if hasattr(optax, spelling)), None)
