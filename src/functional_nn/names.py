"""What has a name on the command line and in lookups, without importing it: where each of them is found.

An optimizer, a schedule, an activation, a model, a loss, a penalty or a metric gets its name here, in one line. Flags,
their help and completion, lookups such as ``training.optimizer`` and the lists of the reference are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class Names(Mapping[str, Any]):
    """Values by name. A value is imported when it is used, so that names can be listed without JAX.

    Args:
        places: for each module, the names of what is found there. In Python, ``-`` of a name is ``_``.

    >>> names = Names({"math": "pi", "statistics": "mean median"})
    >>> list(names), names["median"]([1, 2, 9])
    (['pi', 'mean', 'median'], 2)
    """

    def __init__(self, places: Mapping[str, str]):
        self._modules = {name: module for module, names in places.items() for name in names.split()}

    def __getitem__(self, name: str) -> Any:
        return getattr(import_module(self._modules[name]), name.replace("-", "_"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules


OPTIMIZERS = Names(
    {
        "optax": "sgd adagrad adadelta rmsprop adam adamw adamax nadam radam amsgrad adabelief lamb lion",
        "functional_nn.training.optimizers": "momentum nesterov",
    }
)
SCHEDULES = Names({"functional_nn.training.optimizers": "constant cosine one-cycle step"})
ACTIVATIONS = Names(
    {
        "functional_nn.activations.piecewise": (
            "identity relu leaky_relu elu selu relu6 hard_tanh hard_sigmoid hard_silu"
        ),
        "functional_nn.activations.smooth": (
            "sigmoid tanh softsign softplus log_sigmoid gelu gelu_tanh silu mish softmax log_softmax"
        ),
    }
)
MODELS = Names({"functional_nn.models.named_models": "mlp cnn lenet deep_cnn resnet rnn lstm gru transformer"})
LOSSES = Names(
    {
        "functional_nn.losses.regression": "mean_squared_error mean_absolute_error huber cosine_distance",
        "functional_nn.losses.classification": (
            "binary_cross_entropy binary_cross_entropy_from_probabilities hinge cross_entropy multiclass_hinge "
            "negative_log_likelihood kl_divergence"
        ),
    }
)
PENALTIES = Names({"functional_nn.losses.penalties": "l1 l2"})
METRICS = Names(
    {
        "functional_nn.metrics": (
            "accuracy precision_score recall_score f1_score confusion_matrix calibration_error brier_score"
        )
    }
)
NUMBERS = tuple(name for name in METRICS if name != "confusion_matrix")
"""The metrics that are one number."""

GRADIENTS = ("auto", "jax", "formula")
NON_FINITE = ("stop", "skip")
PRECISIONS = ("float32", "bfloat16", "float16", "float64")
CHIPS = Names({"functional_nn.bench.targets": "tpu-v5e tpu-v6e cuda-h100"})
PROGRAMS = ("train", "step", "predict", "gradient", "hand", "sweep")
"""The programs of a network that ``bench`` measures: the train steps of ``fit`` and ``sweep``, and functions that are
called from Python."""
