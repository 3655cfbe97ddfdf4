from .activation_types import ACTIVATIONS as ACTIVATIONS
from .activation_types import VectorActivation as VectorActivation
from .activation_types import activation as activation
from .piecewise import elu_with as elu_with
from .piecewise import hard_sigmoid as hard_sigmoid
from .piecewise import leaky_relu_with as leaky_relu_with
