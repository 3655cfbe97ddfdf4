from .activation_types import VectorActivation as VectorActivation
from .table import ACTIVATIONS as ACTIVATIONS
from .table import activation as activation
from .table import elu_with as elu_with
from .table import hard_sigmoid as hard_sigmoid
from .table import leaky_relu_with as leaky_relu_with
