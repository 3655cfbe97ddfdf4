from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class Member:
    number: int; hyperparameters: Any; status: str; bad_step: Any; train_loss: Any; test_loss: Any; test_accuracy: Any; params: Any=None; state: Any=None
@dataclass(frozen=True)
class SweepResult:
    members: Any; model: Any; precision: Any; in_shape: Any; plan: Any; compilations: int; seconds: Any; message: str=""
