from .classification import binary_cross_entropy_from_probabilities as binary_cross_entropy_from_probabilities
from .classification import cross_entropy_with as cross_entropy_with
from .loss import LOSSES as LOSSES
from .penalties import Penalty as Penalty
from .regression import huber_with as huber_with
