"""W2 with stax: one process per core. Each trains its models one after another, by a jitted step with donated state."""

from collections.abc import Sequence

from benchmarks.mnist import Mnist
from benchmarks.peers import Peer
from benchmarks.peers.population import in_processes
from benchmarks.peers.stax import LIBRARIES as LIBRARIES
from benchmarks.peers.stax import stax_peer
from benchmarks.w2 import Member, sizes


def one_model(mnist: Mnist, member: Member, hidden: Sequence[int]) -> Peer:
    return stax_peer(mnist, member.seed, donate=True, sizes=sizes(hidden), learning_rate=member.learning_rate)


def processes(mnist: Mnist, seed: int, models: int, hidden: Sequence[int]) -> Peer:
    """One process per core, each with JAX's default number of threads."""
    return in_processes(one_model, mnist, seed, models, hidden)
