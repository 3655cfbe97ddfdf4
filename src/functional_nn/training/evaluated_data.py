"""The evaluation of a run's test and validation examples, in memory or batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from functional_nn.data.dataset import Split
from functional_nn.data.stream import StreamReader
from functional_nn.training.batch_on_device import put_batch
from functional_nn.training.epoch_metrics import number_of_labels
from functional_nn.training.evaluate import Evaluation, EvaluationTotals
from functional_nn.training.processes import Processes
from functional_nn.training.programs.run_programs import Programs
from functional_nn.training.state import TrainState


@dataclass(frozen=True)
class EvaluatedData:
    """The examples that a run is evaluated on.

    Args:
        programs: the compiled programs of the run.
        data: the examples in memory, on the device. A part that is streamed has those of its first batch.
        reader: reads the parts that are streamed; None if there are none.
        processes: those that train together. All of them need the same examples.
        check_interruption: raises ``KeyboardInterrupt`` if Ctrl-C was pressed. It is called before every batch.
    """

    programs: Programs
    data: Split
    reader: StreamReader | None
    processes: Processes
    check_interruption: Callable[[], None]

    @property
    def part(self) -> str:
        """The part that is evaluated after every epoch: ``"validation"``, ``"test"`` or, if there is none, ``""``."""
        return self.data.evaluated_part

    def evaluate(self, part: str, train_state: TrainState) -> tuple[Evaluation, int]:
        """The loss and the metrics on a part of the data, and the number of its labels."""
        if self.reader is not None and part in self.programs.compiled.spec.streamed:
            return self._evaluate_stream(self.reader, part, train_state)
        x, labels = self.data.part(part)
        evaluate = self.programs.evaluate if part == self.part else self.programs.evaluate_test
        return evaluate(train_state, x, labels), number_of_labels(labels)

    def _evaluate_stream(self, reader: StreamReader, part: str, train_state: TrainState) -> tuple[Evaluation, int]:
        compiled = self.programs.compiled
        place = partial(put_batch, like=compiled.spec.data.part(part), sharding=compiled.sharding)
        sums: EvaluationTotals | None = None
        running: EvaluationTotals | None = None
        count = 0
        with reader.evaluated(part, place) as batches:
            for x, labels in self.processes.in_step(part, batches):
                self.check_interruption()
                count += number_of_labels(labels)
                before, running = running, self.programs.batch_totals(train_state, x, labels)
                # The totals of the batch before are read while this batch is computed. Reading waits for them, so no
                # more than two batches are computed at a time.
                if before is not None:
                    sums = _added(sums, before)
        assert running is not None  # a stream without batches is an error
        in_types_of_program = jax.tree.map(lambda total, like: total.astype(like.dtype), _added(sums, running), running)
        return self.programs.evaluation_of_totals(in_types_of_program), count


def _added(sums: EvaluationTotals | None, totals: EvaluationTotals) -> EvaluationTotals:
    """The sums, or nothing if they are None, with the totals of one more batch.

    They are 64-bit numbers, since a 32-bit sum of very many batches would stop growing.
    """
    totals = jax.tree.map(lambda total: np.asarray(total).astype(np.float64), jax.device_get(totals))
    return totals if sums is None else jax.tree.map(np.add, sums, totals)
