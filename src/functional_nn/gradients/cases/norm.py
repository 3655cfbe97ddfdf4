"""Cases of normalization, and of PReLU."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

LAYERS = [
    LayerCase("batch_norm", fnn.batch_norm(), (5,)),
    LayerCase("batch_norm_on_images", fnn.batch_norm(momentum=0.7, epsilon=1e-3), (2, 3, 5)),
    LayerCase("batch_norm_with_axes", fnn.batch_norm(axes=(0, -1)), (3, 5)),
    LayerCase("batch_norm_over_masked", fnn.batch_norm(), (11, 5), make_x=masked((11, 5))),
    LayerCase("layer_norm", fnn.layer_norm(), (11, 5)),
    LayerCase("layer_norm_over_masked", fnn.layer_norm(axes=(1, 2)), (11, 5), make_x=masked((11, 5))),
    LayerCase("rms_norm", fnn.rms_norm(), (3, 5)),
    LayerCase("group_norm", fnn.group_norm(2), (3, 5, 14)),
    LayerCase("group_norm_over_masked", fnn.group_norm(2), (11, 6), make_x=masked((11, 6))),
    LayerCase("instance_norm", fnn.instance_norm(), (11, 5)),
    LayerCase("prelu", fnn.prelu(), (3, 5)),
]
