from .pytorch import from_torch as from_torch
from .pytorch import to_torch as to_torch
