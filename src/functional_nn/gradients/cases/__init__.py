"""Every layer, activation, loss and penalty with an input to compare it at.

Sizes are small, and mostly distinct primes: an axis that is transposed or broadcast by mistake then shows.
"""

from functional_nn.gradients.cases.attention import LAYERS as ATTENTION
from functional_nn.gradients.cases.case import BATCH, LayerCase, LossCase, draw_inputs
from functional_nn.gradients.cases.combinators import LAYERS as COMBINATORS
from functional_nn.gradients.cases.conv import LAYERS as CONV
from functional_nn.gradients.cases.core import LAYERS as CORE
from functional_nn.gradients.cases.dropout import LAYERS as DROPOUT
from functional_nn.gradients.cases.embedding import LAYERS as EMBEDDING
from functional_nn.gradients.cases.losses import LOSSES, PENALTIES
from functional_nn.gradients.cases.models import LAYERS as MODELS
from functional_nn.gradients.cases.norm import LAYERS as NORM
from functional_nn.gradients.cases.recurrent import LAYERS as RECURRENT

LAYERS = [*CORE, *COMBINATORS, *RECURRENT, *ATTENTION, *EMBEDDING, *CONV, *NORM, *DROPOUT, *MODELS]

__all__ = ["BATCH", "LAYERS", "LOSSES", "PENALTIES", "LayerCase", "LossCase", "draw_inputs"]
