"""The programs and numbers of ``learning.html``: a step of gradient descent for each network that the figure offers.

They are made when the figure is read, as the page of a run makes its programs, and run by the same script.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import functional_nn as fnn
from functional_nn import reports
from functional_nn.core.layer import as_layer
from functional_nn.core.products import SEVERAL_PLATFORMS, tracing_for
from functional_nn.reports.drawing import program_data
from functional_nn.reports.portable import portable

HIDDEN = {"2": (2,), "4": (4,), "4 and 4": (4, 4)}
ACTIVATIONS = ("tanh", "sigmoid", "relu", "gelu")
STARTS, POINTS, GRID = 3, 64, 40
"""The numbers of starts, of points, and of columns and rows in which the answers are shown, from -2 to 2."""
loss = fnn.binary_cross_entropy


def start_of(hidden: tuple[int, ...], seed: int) -> list[fnn.Params]:
    """The parameters of the dense layers before the first step, with two decimals."""
    net = fnn.chain(*map(fnn.dense, (*hidden, 1)))
    params, _ = net.init(jax.random.key(seed), (2,))
    return jax.tree.map(lambda leaf: jnp.round(leaf, 2), list(params.values()))


def programs_of(hidden: tuple[int, ...], activation: str) -> dict[str, object]:
    """Two programs: a step of gradient descent over all points, and the answers of the network on the grid."""
    f = as_layer(fnn.activations.activation(activation))

    def forward(params: list[fnn.Params], x: jax.Array):
        inputs, pullbacks = [], []
        for number, own in enumerate(params):
            if number:
                x, _, pullback = f.vjp({}, {}, x, train=True)
                pullbacks.append(pullback)
            inputs.append(x)
            x, _, pullback = fnn.dense((*hidden, 1)[number]).vjp(own, {}, x, train=True)
            pullbacks.append(pullback)
        return x, inputs, pullbacks

    def step(params: list[fnn.Params], rate: jax.Array, decay: jax.Array, x: jax.Array, labels: jax.Array):
        y, inputs, pullbacks = forward(params, x)
        bars, gradients = [loss.gradient(y, labels)], []
        for pullback in reversed(pullbacks):
            own, x_bar = pullback(bars[0])
            bars.insert(0, x_bar)
            gradients = [own, *gradients] if own else gradients

        def moved(p: fnn.Params, bar: fnn.Params) -> fnn.Params:
            weight = p["weight"] - rate * (bar["weight"] + decay * p["weight"])
            return {"bias": p["bias"] - rate * bar["bias"], "weight": weight}

        return loss(y, labels), inputs, bars[1::2], gradients, list(map(moved, params, gradients))

    def evaluate(params: list[fnn.Params], x: jax.Array) -> jax.Array:
        return fnn.sigmoid(forward(params, x)[0])

    params, number = start_of(hidden, 0), jnp.zeros(())
    x, labels, grid = jnp.zeros((POINTS, 2)), jnp.zeros((POINTS, 1)), jnp.zeros((GRID**2, 2))
    with tracing_for(SEVERAL_PLATFORMS):
        traced = jax.make_jaxpr(step)(params, number, number, x, labels), jax.make_jaxpr(evaluate)(params, grid)
    return dict(zip(("step", "evaluate"), (program_data(portable(one)) for one in traced), strict=True))


def points() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The points of each kind, and their classes, 0 or 1."""
    random, turn = np.random.default_rng(0), np.linspace(0, np.pi, POINTS // 2)
    corners = np.tile([[-1, -1], [1, 1], [-1, 1], [1, -1]], (POINTS // 4, 1))
    moon = 1.15 * np.stack([np.cos(turn) - 0.5, np.sin(turn) - 0.25], axis=1)
    moons = np.concatenate([moon, -moon]) + random.normal(0, 0.12, (POINTS, 2))
    xor = corners + random.normal(0, 0.2, (POINTS, 2))
    return {"XOR": (xor, corners.prod(axis=1) < 0), "two moons": (moons, np.arange(POINTS) * 2 < POINTS)}


def script() -> str:
    """What the script of the figure begins with: the evaluator of programs, and the programs and numbers."""
    starts = {
        name: [[leaf.ravel().tolist() for leaf in jax.tree.leaves(start_of(hidden, seed))] for seed in range(STARTS)]
        for name, hidden in HIDDEN.items()
    }
    models = {f"{name}, {f}": programs_of(hidden, f) for name, hidden in HIDDEN.items() for f in ACTIVATIONS}
    classes = {name: (x.round(2).ravel().tolist(), t.astype(int).tolist()) for name, (x, t) in points().items()}
    data = json.dumps({"grid": GRID, "points": classes, "starts": starts, "models": models}, separators=(",", ":"))
    templates = Path(reports.__file__).parent / "templates"
    evaluator = [(templates / f"drawing_{one}.js").read_text("utf-8") for one in ("program", "numbers")]
    return "\n".join([*evaluator, f"const DATA = {data};"])
