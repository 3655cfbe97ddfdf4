"""Textbook rules of gradient descent, momentum, methods with the gradient's sign, LARS and Fromage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functional_nn.gradients.textbook.rule import LeafRule, Number, mean, norm


class GradientDescent(LeafRule):
    """A step against the gradient."""

    formula = "w = w - learning_rate g"
    source = "Cauchy 1847; Goodfellow, Bengio, Courville 2016, Algorithm 8.1"

    def direction(self, w, g, state, t):
        return g, state


@dataclass(frozen=True)
class Momentum(LeafRule):
    """The heavy ball: gradients accumulate without a factor 1 - momentum.

    The learning rate is outside of the accumulator. If it is constant, this is Polyak's
    w - learning_rate g + momentum (w - w_before); with a schedule, the two differ.
    """

    momentum: Number = 0.9

    formula = "m = momentum m + g;  w = w - learning_rate m"
    source = "Polyak 1964; Sutskever et al. 2013, equations 1 and 2"

    def start_leaf(self, w):
        return 0 * w

    def direction(self, w, g, state, t):
        m = self.momentum * state + g
        return m, m


class Nesterov(Momentum):
    """Momentum that looks ahead: the accumulator is advanced once more before it is used.

    The textbook takes the gradient at w + momentum v. Here w is that advanced point, so the gradient is taken at w (the
    usual change of variables).
    """

    formula = "m = momentum m + g;  w = w - learning_rate (g + momentum m)"
    source = "Nesterov 1983; Sutskever et al. 2013, equations 3 and 4; Bengio, Boulanger-Lewandowski, Pascanu 2013"

    def direction(self, w, g, state, t):
        m = self.momentum * state + g
        return g + self.momentum * m, m


class SignDescent(LeafRule):
    """A step against the sign of the gradient; sign(0) = 0."""

    formula = "w = w - learning_rate sign(g)"
    source = "Bernstein et al. 2018, Algorithm 1"

    def direction(self, w, g, state, t):
        return np.sign(g), state


@dataclass(frozen=True)
class Signum(LeafRule):
    """A step against the sign of the gradients' moving average; a sign needs no bias correction."""

    beta: Number = 0.9

    formula = "m = beta m + (1 - beta) g;  w = w - learning_rate sign(m)"
    source = "Bernstein et al. 2018, Algorithm 2"

    def start_leaf(self, w):
        return 0 * w

    def direction(self, w, g, state, t):
        m = mean(self.beta, state, g)
        return np.sign(m), m


@dataclass(frozen=True)
class Rprop(LeafRule):
    """Each parameter has a step size of its own, which grows while the gradient keeps its sign and shrinks otherwise.

    This is the variant iRprop-: after a change of sign, the parameter waits for one step. ``learning_rate`` is the
    first step size. Optax 0.2.8 moves by the previous step instead: it does not move at step 1, and is always one step
    late.
    """

    eta_minus: Number = 0.5
    eta_plus: Number = 1.2
    min_step_size: Number = 1e-6
    max_step_size: Number = 50.0

    formula = (
        "d = min(eta_plus d, max_step_size) where g g_before > 0;  d = max(eta_minus d, min_step_size), g = 0 where "
        "g g_before < 0;  w = w - d sign(g);  d starts at learning_rate"
    )
    source = "Riedmiller and Braun 1993; Igel and Hüsken 2000"

    def start_leaf(self, w):
        return 0 * w + self.rate(1), 0 * w

    def update_leaf(self, w, g, state, t):
        d, before = state
        turned = np.sign(g) * np.sign(before)
        d = np.where(turned > 0, np.minimum(self.eta_plus * d, self.max_step_size), d)
        d = np.where(turned < 0, np.maximum(self.eta_minus * d, self.min_step_size), d)
        g = np.where(turned < 0, 0 * g, g)
        return w - d * np.sign(g), (d, g)


@dataclass(frozen=True)
class Lion(LeafRule):
    """A step against the sign of a mixture of momentum and gradient; the momentum itself has another decay."""

    b1: Number = 0.9
    b2: Number = 0.99
    weight_decay: Number = 0.0

    formula = (
        "d = sign(b1 m + (1 - b1) g);  w = w - learning_rate (d + weight_decay w);  m = b2 m + (1 - b2) g;  sign(0) = 0"
    )
    source = "Chen et al. 2023, Algorithm 2"

    def start_leaf(self, w):
        return 0 * w

    def direction(self, w, g, state, t):
        return np.sign(mean(self.b1, state, g)) + self.weight_decay * w, mean(self.b2, state, g)


@dataclass(frozen=True)
class OptimisticGradientDescent(LeafRule):
    """A step against the gradient plus its change since the previous step, which is 0 at the first step."""

    alpha: Number = 1.0
    beta: Number = 1.0

    formula = "w = w - learning_rate (alpha g + beta (g - g_before));  g_before = g at step 1"
    source = "Daskalakis et al. 2018; Mokhtari, Ozdaglar, Pattathil 2020"

    def start_leaf(self, w):
        return 0 * w

    def direction(self, w, g, state, t):
        before = g if t == 1 else state
        return self.alpha * g + self.beta * (g - before), g


@dataclass(frozen=True)
class LARS(LeafRule):
    """The step of each array is proportional to the array's norm; the learning rate is inside the momentum.

    The paper divides by norm(g) + weight_decay norm(w); Optax divides by the norm of the sum, as here. An array or a
    direction of zeros is not scaled.
    """

    weight_decay: Number = 0.0
    trust_coefficient: Number = 0.001
    eps: Number = 0.0
    momentum: Number = 0.9

    formula = (
        "d = g + weight_decay w;  d = trust_coefficient norm(w) / (norm(d) + eps) d;  "
        "m = momentum m + learning_rate d;  w = w - m"
    )
    source = "You, Gitman, Ginsburg 2017, Algorithm 1"

    def start_leaf(self, w):
        return 0 * w

    def update_leaf(self, w, g, state, t):
        d = g + self.weight_decay * w
        if norm(w) > 0 and norm(d) > 0:
            d = d * (self.trust_coefficient * norm(w) / (norm(d) + self.eps))
        m = self.momentum * state + self.rate(t) * d
        return w - m, m


@dataclass(frozen=True)
class Fromage(LeafRule):
    """The step of each array is proportional to the array's norm; then the array is scaled so that it does not grow.

    The paper has no ``min_norm``; Optax replaces smaller norms by it.
    """

    min_norm: Number = 0.0

    formula = (
        "w = (w - learning_rate norm(w) / norm(g) g) / sqrt(1 + learning_rate²), where each norm is at least min_norm"
    )
    source = "Bernstein et al. 2020, Algorithm 1"

    def update_leaf(self, w, g, state, t):
        size_w, size_g = max(norm(w), self.min_norm), max(norm(g), self.min_norm)
        d = g * (size_w / size_g) if size_w > 0 and size_g > 0 else g
        return (w - self.rate(t) * d) / np.sqrt(1 + self.rate(t) * self.rate(t)), state
