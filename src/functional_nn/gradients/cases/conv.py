"""Cases of convolution, transposed convolution and pooling."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked, ties

uneven = {"stride": (2, 1), "padding": ((2, 1), (0, 3)), "dilation": (1, 2)}

LAYERS = [
    LayerCase("conv", fnn.conv(3, (3, 2), lowering="product"), (5, 7, 2)),
    LayerCase("conv_native", fnn.conv(6, (3, 2), **uneven, groups=2, lowering="native"), (5, 7, 4)),
    LayerCase("conv_strided", fnn.conv(3, (3, 2), **uneven, lowering="product"), (5, 7, 2)),
    LayerCase("conv_causal", fnn.conv(5, 3, padding="causal", dilation=2, bias=False), (7, 3)),
    LayerCase("conv_of_volumes", fnn.conv(2, (2, 1, 2), padding="valid"), (3, 2, 5, 3)),
    LayerCase("conv_of_single_places", fnn.conv(5, 1, stride=2), (7, 3)),
    LayerCase("conv_grouped", fnn.conv(6, 2, groups=2, lowering="product"), (5, 4)),
    LayerCase("conv_depthwise", fnn.conv(6, 3, groups=3, stride=2, lowering="product"), (7, 3)),
    LayerCase("conv_transpose", fnn.conv_transpose(3, (3, 2), **uneven, lowering="product"), (3, 5, 2)),
    LayerCase("conv_transpose_grouped", fnn.conv_transpose(6, 2, stride=3, groups=2, lowering="product"), (5, 4)),
    LayerCase("max_pool", fnn.max_pool(2), (5, 7, 3)),
    LayerCase("max_pool_of_ties", fnn.max_pool(2), (5, 7, 3), make_x=ties((5, 7, 3))),
    LayerCase("max_pool_overlapping", fnn.max_pool((3, 2), stride=(2, 1), padding="same"), (5, 7, 3)),
    LayerCase("average_pool", fnn.average_pool((2, 3), padding="same"), (5, 7, 3)),
    LayerCase("average_pool_overlapping", fnn.average_pool(3, stride=2, padding=((1, 2),), count_padding=True), (7, 3)),
    LayerCase("global_average_pool", fnn.global_average_pool(), (2, 3, 5)),
    LayerCase("global_average_pool_over_masked", fnn.global_average_pool(), (11, 5), make_x=masked((11, 5))),
    LayerCase("global_max_pool", fnn.global_max_pool(), (2, 3, 5)),
    LayerCase("global_max_pool_over_masked", fnn.global_max_pool(), (11, 5), make_x=masked((11, 5))),
]
