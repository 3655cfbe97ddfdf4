"""Cases of layers made of layers."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase, masked

branches = fnn.dense(3), fnn.chain(fnn.dense(3), fnn.tanh)

LAYERS = [
    LayerCase("parallel_sum", fnn.parallel(*branches), (5,)),
    LayerCase("parallel_product", fnn.parallel(*branches, fnn.dense(3), combine="product"), (5,)),
    LayerCase("parallel_concatenate", fnn.parallel(fnn.dense(3), fnn.dropout(0.3), combine="concatenate"), (5,), True),
    LayerCase("parallel_over_masked", fnn.parallel(*branches), (11, 5), make_x=masked((11, 5))),
    LayerCase("residual", fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.batch_norm())), (5,)),
    LayerCase("residual_of_named", fnn.residual(fnn.dense(5), fnn.tanh, last=fnn.dense(5)), (5,)),
    LayerCase("residual_with_shortcut", fnn.residual(fnn.dense(3), shortcut=fnn.dense(3, bias=False)), (5,)),
    LayerCase("residual_over_masked", fnn.residual(fnn.dense(5)), (11, 5), make_x=masked((11, 5))),
    LayerCase("bidirectional", fnn.bidirectional(fnn.dense(3), fnn.dense(2)), (11, 5)),
    LayerCase("reverse_time", fnn.reverse_time(fnn.dense(3)), (11, 5)),
    LayerCase("repeat", fnn.repeat(fnn.residual(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dropout(0.3))), 3), (5,), True),
    LayerCase("repeat_with_state", fnn.repeat(fnn.chain(fnn.dense(5, bias=False), fnn.batch_norm()), 2), (5,)),
    LayerCase("repeat_over_masked", fnn.repeat(fnn.residual(fnn.dense(5)), 2), (11, 5), make_x=masked((11, 5))),
    LayerCase("remat", fnn.remat(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))), (5,), True),
    LayerCase("shared", fnn.shared(fnn.chain(fnn.dense(5), fnn.tanh, fnn.dense(5)), {"dense_1": "dense_0"}), (5,)),
    LayerCase(
        "frozen", fnn.frozen(fnn.models.mlp(3, hidden=(11, 7), batch_norm=True), ["dense_0/*", "*scale"]), (5, 2)
    ),
    LayerCase(
        "with_hand_vjp",
        fnn.with_hand_vjp(fnn.chain(fnn.dense(3), fnn.tanh, fnn.dropout(0.3))),
        (5,),
        True,
        no_jvp="a function with a backward pass of its own has no forward mode in JAX",
    ),
]
