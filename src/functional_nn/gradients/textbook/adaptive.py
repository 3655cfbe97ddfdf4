"""Rules that divide by the running size of the gradients, without correcting its bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from functional_nn.gradients.textbook.rule import Array, LeafRule, mean


@dataclass(frozen=True)
class AdaGrad(LeafRule):
    """Each parameter's rate falls with the squares of its gradients so far; none at all, no movement.

    The paper starts at ``initial`` 0 and adds its delta outside of the root; Optax starts at 0.1 and adds inside.
    """

    initial: Any = 0.0
    eps: Any = 0.0
    eps_root: Any = 0.0

    formula = (
        "s = s + g²;  w = w - learning_rate g / (sqrt(s + eps_root) + eps), no movement where s = 0;  "
        "s starts at initial"
    )
    source = "Duchi, Hazan, Singer 2011, Figure 1 (diagonal); Goodfellow, Bengio, Courville 2016, Algorithm 8.4"

    def start_leaf(self, w):
        return 0 * w + self.initial

    def direction(self, w, g, state, t):
        s = state + g * g
        divisor = np.where(s > 0, np.sqrt(s + self.eps_root) + self.eps, 1)
        return g / divisor, s


@dataclass(frozen=True)
class AdaDelta(LeafRule):
    """The ratio of the running sizes of updates and of gradients takes the learning rate's place (1 in the paper)."""

    rho: Any = 0.9
    eps_root: Any = 1e-6

    formula = (
        "s = rho s + (1 - rho) g²;  d = sqrt(u + eps_root) / sqrt(s + eps_root) g;  u = rho u + (1 - rho) d²;  "
        "w = w - learning_rate d"
    )
    source = "Zeiler 2012, Algorithm 1"

    def start_leaf(self, w):
        return 0 * w, 0 * w

    def direction(self, w, g, state, t):
        s, u = state
        s = mean(self.rho, s, g * g)
        d = np.sqrt(u + self.eps_root) / np.sqrt(s + self.eps_root) * g
        return d, (s, mean(self.rho, u, d * d))


@dataclass(frozen=True)
class RMSProp(LeafRule):
    """The gradient over its running root mean square, with momentum if wanted; the learning rate is inside of it.

    Hinton's lecture has no eps. Graves and Optax add it inside of the root, PyTorch outside; none corrects the bias.
    """

    decay: Any = 0.9
    eps: Any = 0.0
    eps_root: Any = 1e-8
    momentum: Any = 0.0

    formula = "s = decay s + (1 - decay) g²;  m = momentum m + learning_rate g / (sqrt(s + eps_root) + eps);  w = w - m"
    source = "Tieleman and Hinton 2012, lecture 6e; Graves 2013, equations 38 to 45, without the mean"

    def start_leaf(self, w):
        return 0 * w, 0 * w, 0 * w

    def spread(self, s: Array, mean_g: Array) -> Array:
        """What the root is taken of."""
        return s

    def update_leaf(self, w, g, state, t):
        s, mean_g, m = state
        s, mean_g = mean(self.decay, s, g * g), mean(self.decay, mean_g, g)
        scaled = g / (np.sqrt(self.spread(s, mean_g) + self.eps_root) + self.eps)
        m = self.momentum * m + self.rate(t) * scaled
        return w - m, (s, mean_g, m)


class CenteredRMSProp(RMSProp):
    """RMSProp over the running standard deviation: the mean's square is taken from the mean square.

    Where gradients hardly change, that difference cancels: rounding decides, and can make it negative.
    """

    formula = (
        "s = decay s + (1 - decay) g²;  a = decay a + (1 - decay) g;  "
        "m = momentum m + learning_rate g / (sqrt(s - a² + eps_root) + eps);  w = w - m"
    )
    source = "Graves 2013, equations 38 to 45"

    def spread(self, s, mean_g):
        return s - mean_g * mean_g
