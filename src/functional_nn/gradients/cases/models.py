"""Cases of the named models, in small sizes."""

import functional_nn as fnn
from functional_nn.gradients.cases.case import LayerCase

MOVED_KINK = "rounded to 8 bits, numbers that max pooling compares become equal, and the kink moves"
"""The reason why networks with max pooling are not compared in bfloat16."""
RECURRENT = [
    LayerCase(f"{name}_model", fnn.model(name, 3, hidden=(5, 2)), (3, 2, 2)) for name in ("rnn", "lstm", "gru")
]

LAYERS = [
    LayerCase("mlp", fnn.models.mlp(3, hidden=(11, 7)), (5, 2)),
    LayerCase(
        "mlp_with_all",
        fnn.models.mlp(3, hidden=(11, 7), dropout=0.2, batch_norm=True, activation=fnn.silu),
        (5, 2),
        True,
    ),
    LayerCase(
        "cnn",
        fnn.model("cnn", 3, hidden=(2, 5), activation=fnn.tanh),
        (7, 5, 2),
        no_bfloat16=MOVED_KINK,
    ),
    LayerCase(
        "lenet",
        fnn.model("lenet", 3, hidden=(2, 3, 5), activation=fnn.tanh),
        (13, 11, 1),
        no_bfloat16=MOVED_KINK,
    ),
    LayerCase(
        "deep_cnn",
        fnn.model("deep_cnn", 3, hidden=(2, 2, 2, 3), activation=fnn.tanh, dropout=0.2),
        (12, 10, 1),
        True,
        no_bfloat16=MOVED_KINK,
    ),
    LayerCase("residual_block", fnn.models.residual_block(3, projection=True, activation=fnn.tanh), (5, 3, 2)),
    LayerCase("resnet", fnn.model("resnet", 3, hidden=(2, 3), activation=fnn.tanh), (5, 3, 2)),
    *RECURRENT,
    LayerCase(
        "language_model",
        fnn.models.language_model(
            5, 4, features=4, depth=2, heads=2, key_value_heads=1, window=2, positions="learned"
        ).layer,
        (4,),
        make_x=lambda random, batch: random.integers(0, 5, (batch, 4)),
    ),
    LayerCase("transformer", fnn.model("transformer", 3, hidden=(4, 4), heads=2), (3, 5)),
]
