"""Textbook rules of Adam and its relatives: moving averages of gradients and of their squares, without bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functional_nn.gradients.textbook.rule import Array, LeafRule, Number, RuleState, mean, norm


@dataclass(frozen=True)
class Adam(LeafRule):
    """The corrected mean of the gradients, divided by the root of their corrected mean square.

    eps is added outside of the root, as in Algorithm 1. The form "just before section 2.1" of the paper (TensorFlow's
    "epsilon hat") adds it to the root of the uncorrected v. Only Optax has eps_root. The first step is
    learning_rate g / (|g| + eps).
    """

    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    eps_root: Number = 0.0

    formula = (
        "m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  m_hat = m / (1 - b1^t);  v_hat = v / (1 - b2^t);  "
        "w = w - learning_rate m_hat / (sqrt(v_hat + eps_root) + eps)"
    )
    source = "Kingma and Ba 2015, Algorithm 1"

    def start_leaf(self, w: Array) -> RuleState:
        return 0 * w, 0 * w

    def first(self, m: Array, g: Array, t: int) -> Array:
        """The corrected mean of the gradients."""
        return m / (1 - self.b1**t)

    def direction(self, w: Array, g: Array, state: RuleState, t: int) -> tuple[Array, RuleState]:
        m, v = state
        m, v = mean(self.b1, m, g), mean(self.b2, v, g * g)
        v_hat = v / (1 - self.b2**t)
        return self.first(m, g, t) / (np.sqrt(v_hat + self.eps_root) + self.eps), (m, v)


class NAdam(Adam):
    """Adam with Nesterov's momentum, with one b1 for all steps.

    Optax and this form leave out two things of the paper: the factor b2 of its v_hat, and a b1 that grows with the
    steps (PyTorch has the latter).
    """

    formula = (
        "m, v, v_hat as Adam;  m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t);  "
        "w = w - learning_rate m_hat / (sqrt(v_hat + eps_root) + eps)"
    )
    source = "Dozat 2016, Algorithm 2"

    def first(self, m, g, t):
        return self.b1 * m / (1 - self.b1 ** (t + 1)) + (1 - self.b1) * g / (1 - self.b1**t)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that is not divided by the size of the gradients.

    The learning rate multiplies the decay too, as in Optax and PyTorch. In the paper only the schedule's factor does,
    so its weight decay is learning_rate times the one here.
    """

    weight_decay: Number = 1e-4

    formula = "m_hat, v_hat as Adam;  w = w - learning_rate (m_hat / (sqrt(v_hat + eps_root) + eps) + weight_decay w)"
    source = "Loshchilov and Hutter 2019, Algorithm 2"

    def direction(self, w, g, state, t):
        d, state = super().direction(w, g, state, t)
        return d + self.weight_decay * w, state


@dataclass(frozen=True)
class LAMB(AdamW):
    """AdamW's direction, scaled to the norm of each array. An array or a direction of zeros is not scaled."""

    eps: Number = 1e-6
    weight_decay: Number = 0.0

    formula = "d = m_hat / (sqrt(v_hat + eps_root) + eps) + weight_decay w;  w = w - learning_rate norm(w) / norm(d) d"
    source = "You et al. 2020, Algorithm 2, with phi(z) = z"

    def direction(self, w, g, state, t):
        d, state = super().direction(w, g, state, t)
        if norm(w) > 0 and norm(d) > 0:
            d = d * (norm(w) / norm(d))
        return d, state


class AMSGrad(Adam):
    """Adam with the largest mean square so far, so that steps never grow again.

    The paper does not correct the bias. Optax corrects the mean, and takes the maximum of corrected mean squares.
    PyTorch takes the maximum of the uncorrected ones and corrects that.
    """

    formula = (
        "m_hat, v_hat as Adam;  v_max = max(v_max, v_hat);  "
        "w = w - learning_rate m_hat / (sqrt(v_max + eps_root) + eps)"
    )
    source = "Reddi, Kale, Kumar 2018, Algorithm 2"

    def start_leaf(self, w):
        return 0 * w, 0 * w, 0 * w

    def direction(self, w, g, state, t):
        m, v, v_max = state
        m, v = mean(self.b1, m, g), mean(self.b2, v, g * g)
        v_max = np.maximum(v_max, v / (1 - self.b2**t))
        return self.first(m, g, t) / (np.sqrt(v_max + self.eps_root) + self.eps), (m, v, v_max)


@dataclass(frozen=True)
class AdaMax(LeafRule):
    """Adam with a fading maximum of |g| instead of the root of the mean square; this maximum has no bias.

    The paper has no eps; Optax adds it to every |g|.
    """

    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0

    formula = (
        "m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  w = w - learning_rate (m / (1 - b1^t) / u + weight_decay w)"
    )
    source = "Kingma and Ba 2015, Algorithm 2"

    def start_leaf(self, w):
        return 0 * w, 0 * w

    def direction(self, w, g, state, t):
        m, u = state
        m, u = mean(self.b1, m, g), np.maximum(self.b2 * u, np.abs(g) + self.eps)
        return m / (1 - self.b1**t) / u + self.weight_decay * w, (m, u)


@dataclass(frozen=True)
class RAdam(Adam):
    """Adam with a factor for the variance of the mean square. Without a finite variance, it is momentum alone.

    The paper applies the factor if rho > 4; Optax and the authors' code if rho >= ``threshold`` = 5. With b2 = 0.999
    this is one step later, so step 5 differs. eps is not in the paper.
    """

    threshold: Number = 5.0

    formula = (
        "m_hat, v_hat as Adam;  rho_inf = 2 / (1 - b2) - 1;  rho = rho_inf - 2 t b2^t / (1 - b2^t);  "
        "w = w - learning_rate r m_hat / (sqrt(v_hat + eps_root) + eps) where rho >= threshold, with "
        "r = sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho));  "
        "w = w - learning_rate m_hat elsewhere"
    )
    source = "Liu et al. 2020, Algorithm 2"

    def direction(self, w, g, state, t):
        m, v = state
        m, v = mean(self.b1, m, g), mean(self.b2, v, g * g)
        m_hat, v_hat = self.first(m, g, t), v / (1 - self.b2**t)
        rho_inf = 2 / (1 - self.b2) - 1
        rho = rho_inf - 2 * t * self.b2**t / (1 - self.b2**t)
        if rho < self.threshold:
            return m_hat, (m, v)
        r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return r * m_hat / (np.sqrt(v_hat + self.eps_root) + self.eps), (m, v)


@dataclass(frozen=True)
class AdaBelief(Adam):
    """Adam with the mean square of the gradients' distance from their own mean. eps_root is added to s in each step."""

    eps: Number = 1e-16
    eps_root: Number = 1e-16

    formula = (
        "m = b1 m + (1 - b1) g;  s = b2 s + (1 - b2) (g - m)² + eps_root;  "
        "w = w - learning_rate m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + eps)"
    )
    source = "Zhuang et al. 2020, Algorithm 2"

    def direction(self, w, g, state, t):
        m, s = state
        m = mean(self.b1, m, g)
        s = mean(self.b2, s, (g - m) * (g - m)) + self.eps_root
        return self.first(m, g, t) / (np.sqrt(s / (1 - self.b2**t)) + self.eps), (m, s)


@dataclass(frozen=True)
class Yogi(LeafRule):
    """Adam with a mean square that moves by the squared gradient, up or down, and so cannot fall too fast.

    The paper does not correct the bias and starts m at 0. Optax corrects both means, and starts both at ``initial``.
    """

    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-3
    initial: Number = 1e-6

    formula = (
        "m = b1 m + (1 - b1) g;  v = v - (1 - b2) sign(v - g²) g²;  "
        "w = w - learning_rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps);  m and v start at initial"
    )
    source = "Zaheer et al. 2018, Algorithm 2"

    def start_leaf(self, w):
        return 0 * w + self.initial, 0 * w + self.initial

    def direction(self, w, g, state, t):
        m, v = state
        m = mean(self.b1, m, g)
        v = v - (1 - self.b2) * np.sign(v - g * g) * (g * g)
        return m / (1 - self.b1**t) / (np.sqrt(v / (1 - self.b2**t)) + self.eps), (m, v)


@dataclass(frozen=True)
class NovoGrad(LeafRule):
    """The gradient of each array, divided by a moving average of its norm; weight decay is inside the momentum.

    Both accumulators start with the values of the first step, so there is no bias. The paper's first step has no eps.
    """

    b1: Number = 0.9
    b2: Number = 0.25
    eps: Number = 1e-6
    weight_decay: Number = 0.0

    formula = (
        "v = b2 v + (1 - b2) norm(g)²;  m = b1 m + g / (sqrt(v) + eps) + weight_decay w;  w = w - learning_rate m;  "
        "v = norm(g)² at step 1"
    )
    source = "Ginsburg et al. 2019, Algorithm 1"

    def start_leaf(self, w):
        return 0 * w, 0

    def direction(self, w, g, state, t):
        m, v = state
        square = np.sum(g * g)
        v = square if t == 1 else mean(self.b2, v, square)
        m = self.b1 * m + g / (np.sqrt(v) + self.eps) + self.weight_decay * w
        return m, (m, v)
