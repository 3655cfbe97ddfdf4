"""A JAX functional neural network toolkit.

The public names are listed, with their modules, in ``__init__.pyi`` beside this file, and imported when first used, so
that ``import functional_nn`` and the command line's ``--help`` do not wait for JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
