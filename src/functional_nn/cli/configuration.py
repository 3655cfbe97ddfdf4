"""What a run is made of, as flags and ``config.json`` name it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functional_nn.errors import DataError

if TYPE_CHECKING:
    import optax

    from functional_nn.layer import Layer
    from functional_nn.training.step import PenaltyFunction

JSON: dict[Any, Any] = {
    **{"str": str, "str | None": (str, type(None)), "tuple[int, ...]": list},
    **{"int": int, "float": (int, float), "bool": bool},
}
"""What JSON makes of a field's type."""


@dataclass(frozen=True)
class Configuration:
    """Every choice of a training run; the names are the command's flags."""

    dataset: str
    data_dir: str | None
    model: str
    hidden: tuple[int, ...]
    activation: str
    dropout: float
    batch_norm: bool
    l1: float
    l2: float
    optimizer: str
    learning_rate: float
    schedule: str
    epochs: int
    batch_size: int
    seed: int
    precision: str

    def network(self, classes: int) -> Layer:
        """The network for so many classes."""
        from functional_nn.activations import activation
        from functional_nn.models import model

        return model(
            self.model,
            classes,
            hidden=self.hidden,
            activation=activation(self.activation),
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )

    def transformation(self, examples: int) -> optax.GradientTransformation:
        """The optimizer with its schedule over the run's steps."""
        from functional_nn.training.optimizers import optimizer, schedule

        steps = self.epochs * math.ceil(examples / self.batch_size)
        constant = self.schedule == "constant"
        return optimizer(
            self.optimizer, self.learning_rate if constant else schedule(self.schedule, self.learning_rate, steps)
        )

    def penalty(self) -> PenaltyFunction | None:
        """The sum of the penalties, or None where there is none."""
        from functional_nn.penalties import l1, l2

        penalties = [penalty(rate) for penalty, rate in ((l1, self.l1), (l2, self.l2)) if rate]
        if not penalties:
            return None
        return lambda params: sum((penalty(params) for penalty in penalties[1:]), penalties[0](params))

    def to_dict(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> Configuration:
        """Reads what ``to_dict`` wrote; ``path`` is named in errors."""
        wrong = [field.name for field in fields(cls) if not isinstance(values.get(field.name, ...), JSON[field.type])]
        if wrong:
            raise DataError(str(path), "a run's configuration", f"one with {', '.join(wrong)} missing or wrong")
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**known, "hidden": tuple(known["hidden"])})
