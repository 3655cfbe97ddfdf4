"""How functional_nn compares with the fastest other library and with PyTorch in a race."""

from statistics import median
from types import ModuleType
from typing import NamedTuple

from benchmarks.recorded import Race

NO_LIBRARY = "no library"
"""How the names of plain JAX programs begin, which are shown for reference but are not peers."""


class Ratios(NamedTuple):
    """The fastest other library, and medians of ratios: another library's time divided by functional_nn's.

    Args:
        best: the peer that stands for the fastest other library.
        fastest: the name of this library.
        to_best: the ratio of its times.
        to_pytorch: the ratio of the times of the peer that stands for PyTorch.
        medians: the median time of each peer that finished, in seconds for one model.
    """

    best: str
    fastest: str
    to_best: float
    to_pytorch: float
    medians: dict[str, float]


def ratios(workload: ModuleType, race: Race) -> Ratios:
    """Compares times of the same round. `OURS` of the workload stands for functional_nn."""
    times = {entry.peer: entry.seconds_a_model for entry in race.entries if entry.problem is None}
    medians = {peer: median(seconds) for peer, seconds in times.items()}
    others = [peer for peer in times if not workload.NAMES[peer].startswith(("functional_nn", NO_LIBRARY))]
    best = min(others, key=medians.__getitem__)

    def to(peer: str) -> float:
        return median(other / our for other, our in zip(times[peer], times[workload.OURS], strict=True))

    return Ratios(best, workload.NAMES[best].split(",")[0], to(best), to(workload.PYTORCH), medians)
