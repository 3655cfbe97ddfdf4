"""Cases of neurons, dense layers, reshaping layers, activations and chains."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase

NEURONS = [LayerCase(f"neuron_{f.name}", fnn.neuron(f), (5,)) for f in (fnn.sigmoid, fnn.tanh, fnn.relu)]
ACTIVATIONS = [LayerCase(name, f.as_layer(), (5, 3)) for name, f in fnn.activations.ACTIVATIONS.items()]

LAYERS = [
    LayerCase("neuron", fnn.neuron(), (5,)),
    *NEURONS,
    LayerCase("dense", fnn.dense(3), (5,)),
    LayerCase("dense_without_bias", fnn.dense(3, bias=False), (5,)),
    LayerCase("dense_on_sequences", fnn.dense(3), (11, 5)),
    LayerCase("dense_pytorch_start", fnn.dense(3, initializer="pytorch"), (5,)),
    LayerCase("flatten", fnn.flatten(), (2, 3, 5)),
    LayerCase("flatten_keeping_rows", fnn.flatten(keep=1), (2, 3, 5)),
    LayerCase("reshape", fnn.reshape((3, -1)), (2, 15)),
    LayerCase("chain_empty", fnn.chain(), (5,)),
    LayerCase("chain", fnn.chain(fnn.dense(3), fnn.tanh, fnn.dense(2)), (5,)),
    LayerCase("chain_of_chains", fnn.chain(fnn.chain(fnn.dense(3), fnn.gelu), fnn.chain(fnn.dropout(0.5))), (5,), True),
    *ACTIVATIONS,
]
