"""Every layer, activation, loss and penalty with inputs to try it on: what the contracts run over.

Sizes are small, distinct and prime, so that a transposed or broadcast axis cannot pass unseen.
"""

from . import combinators, core
from .case import BATCH, LayerCase, LossCase, of, started
from .losses import LOSSES, PENALTIES

FAMILIES = (core, combinators)
LAYERS = [case for family in FAMILIES for case in family.LAYERS]

__all__ = ["BATCH", "LAYERS", "LOSSES", "PENALTIES", "LayerCase", "LossCase", "of", "started"]
