"""Every layer, activation, loss and penalty with inputs to try it on: what the contracts run over.

Sizes are small, distinct and prime, so that a transposed or broadcast axis cannot pass unseen.
"""

from . import attention, combinators, conv, core, dropout, embedding, models, norm, recurrent
from .case import BATCH, LayerCase, LossCase, jit, of, started
from .losses import LOSSES, PENALTIES

FAMILIES = (core, combinators, recurrent, attention, embedding, conv, norm, dropout, models)
LAYERS = [case for family in FAMILIES for case in family.LAYERS]

__all__ = ["BATCH", "LAYERS", "LOSSES", "PENALTIES", "LayerCase", "LossCase", "jit", "of", "started"]
