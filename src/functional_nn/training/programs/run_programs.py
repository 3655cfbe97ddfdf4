"""The compiled programs of one run, or of a sweep's members, with their hyper-parameters."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from functional_nn.core.masked import Value
from functional_nn.core.trees import PyTree
from functional_nn.training.epoch import EpochResult
from functional_nn.training.evaluate import Evaluation, EvaluationTotals
from functional_nn.training.programs.compile import CompiledPrograms
from functional_nn.training.programs.recipe import Hyperparameters
from functional_nn.training.state import TrainState
from functional_nn.training.step import StepResult

NO_HYPERPARAMETERS: Hyperparameters = {}


class Programs(NamedTuple):
    """The compiled programs of one run, or of a sweep's members with their hyper-parameters."""

    compiled: CompiledPrograms
    hyperparameters: Hyperparameters = NO_HYPERPARAMETERS

    def start(self, key: jax.Array) -> TrainState:
        """The train state before the first epoch."""
        return self.compiled.start(self.hyperparameters, key)

    def epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike, order_key: jax.Array | None = None
    ) -> tuple[TrainState, EpochResult]:
        """Trains for one epoch, which uses every example once."""
        full, rest = self.compiled.draw_order(train_state.key if order_key is None else order_key, number)
        train_state, losses = self.compiled.full_batches(self.hyperparameters, train_state, full, x, labels)
        return self.compiled.last_batch(self.hyperparameters, train_state, losses, rest, x, labels)

    def streamed_step(self, train_state: TrainState, x: Value, labels: PyTree) -> tuple[TrainState, StepResult]:
        """Trains on one batch of a stream. If the result is not finite, the old train state is the one to keep."""
        return self.compiled.streamed_step(self.hyperparameters, train_state, x, labels)

    def careful_epoch(
        self, train_state: TrainState, x: Value, labels: PyTree, number: ArrayLike, order_key: jax.Array | None = None
    ) -> tuple[TrainState, EpochResult, TrainState | None]:
        """The same epoch with steps that change nothing if a value would become non-finite.

        Returns the train state after the epoch, the result, and, for a single model, the train state before the first
        bad step.
        """
        return self.compiled.careful_epoch(self.hyperparameters, train_state, x, labels, number, order_key)

    def evaluate(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the examples that are evaluated after every epoch."""
        return self.compiled.evaluate(self.hyperparameters, train_state, x, labels)

    def evaluate_test(self, train_state: TrainState, x: Value, labels: PyTree) -> Evaluation:
        """The loss and the metrics on the test examples, if others are evaluated after every epoch."""
        return self.compiled.evaluate_test(self.hyperparameters, train_state, x, labels)

    def batch_totals(self, train_state: TrainState, x: Value, labels: PyTree) -> EvaluationTotals:
        """The totals of a streamed batch that is evaluated."""
        return self.compiled.batch_totals(x, labels)(self.hyperparameters, train_state, x, labels)

    def evaluation_of_totals(self, totals: EvaluationTotals) -> Evaluation:
        """The loss and the metrics from the sums of the totals of all streamed batches."""
        return self.compiled.evaluation_of_totals(self.hyperparameters, totals)
