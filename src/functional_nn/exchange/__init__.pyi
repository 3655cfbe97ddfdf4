from .equinox_parameters import from_equinox as from_equinox
from .equinox_parameters import to_equinox as to_equinox
from .flax_parameters import from_flax as from_flax
from .flax_parameters import to_flax as to_flax
from .keras_parameters import from_keras as from_keras
from .keras_parameters import to_keras as to_keras
from .pytorch_parameters import from_torch as from_torch
from .pytorch_parameters import to_torch as to_torch
