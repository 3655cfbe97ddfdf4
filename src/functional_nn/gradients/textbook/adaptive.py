"""Textbook rules of AdaGrad, AdaDelta and RMSProp: gradients divided by their own moving size, with its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functional_nn.gradients.textbook.rule import Array, LeafRule, Number, mean


@dataclass(frozen=True)
class AdaGrad(LeafRule):
    """The rate of each parameter falls with the sum of its squared gradients. If all were 0, it does not move.

    The paper starts at ``initial`` 0 and adds its delta outside of the root. Optax starts at 0.1 and adds eps inside.
    """

    initial: Number = 0.0
    eps: Number = 0.0
    eps_root: Number = 0.0

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
    """The moving sizes of updates and of gradients, whose ratio replaces the learning rate (it is 1 in the paper)."""

    rho: Number = 0.9
    eps_root: Number = 1e-6

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
    """The gradient divided by the root of its moving mean square. The learning rate is inside the momentum, if any.

    Hinton's lecture has no eps. Graves and Optax add it inside the root, PyTorch outside. None corrects the bias.
    """

    decay: Number = 0.9
    eps: Number = 0.0
    eps_root: Number = 1e-8
    momentum: Number = 0.0

    formula = "s = decay s + (1 - decay) g²;  m = momentum m + learning_rate g / (sqrt(s + eps_root) + eps);  w = w - m"
    source = "Tieleman and Hinton 2012, lecture 6e; Graves 2013, equations 38 to 45, without the mean"

    def start_leaf(self, w):
        return 0 * w, 0 * w, 0 * w

    def spread(self, s: Array, mean_g: Array) -> Array:
        """The number under the root."""
        return s

    def update_leaf(self, w, g, state, t):
        s, mean_g, m = state
        s, mean_g = mean(self.decay, s, g * g), mean(self.decay, mean_g, g)
        scaled = g / (np.sqrt(self.spread(s, mean_g) + self.eps_root) + self.eps)
        m = self.momentum * m + self.rate(t) * scaled
        return w - m, (s, mean_g, m)


class CenteredRMSProp(RMSProp):
    """RMSProp with the moving standard deviation: the squared mean is subtracted from the mean square.

    If gradients hardly change, the two nearly cancel. The difference is then rounding, and can be negative.
    """

    formula = (
        "s = decay s + (1 - decay) g²;  a = decay a + (1 - decay) g;  "
        "m = momentum m + learning_rate g / (sqrt(s - a² + eps_root) + eps);  w = w - m"
    )
    source = "Graves 2013, equations 38 to 45"

    def spread(self, s, mean_g):
        return s - mean_g * mean_g
