"""Cases of layers that draw random numbers: dropout and augmentation of images."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase

LAYERS = [
    LayerCase("dropout", fnn.dropout(0.3), (13,), draws=True),
    LayerCase("spatial_dropout", fnn.spatial_dropout(0.3), (3, 5), draws=True),
    LayerCase("stochastic_depth", fnn.stochastic_depth(0.3), (3, 5), draws=True),
    LayerCase("random_shift", fnn.random_shift(1), (5, 2), draws=True),
    LayerCase("random_shift-2-axes", fnn.random_shift(2), (4, 5, 2), draws=True),
    LayerCase("random_deformation", fnn.random_deformation(0.4), (5, 2), draws=True),
    LayerCase("random_deformation-2-axes", fnn.random_deformation(0.3), (4, 5, 2), draws=True),
]
