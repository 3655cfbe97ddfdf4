from .equinox import from_equinox as from_equinox
from .equinox import to_equinox as to_equinox
from .flax import from_flax as from_flax
from .flax import to_flax as to_flax
from .keras import from_keras as from_keras
from .keras import to_keras as to_keras
from .pytorch import from_torch as from_torch
from .pytorch import to_torch as to_torch
