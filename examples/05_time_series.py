"""A network forecasts the next week of a daily series from eight weeks, and is compared with two simple rules.

    python examples/05_time_series.py [--model gru] [--out FOLDER] [--quick]

The series is artificial, modeled on the daily load of a power grid: a trend, seasons over the year and the week,
holidays, and a disturbance that fades over days, as weather does. So the error that no forecast can avoid is known. The
network is tested on the last year, which it has not seen, and compared with two rules that need no network: every day
will be like today, and every day will be like the same day of last week.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import optax

import functional_nn as fnn

WINDOW, HORIZON, YEAR = 56, 7, 365
FADING, SHOCK = 0.8, 2.0
"""The share of a disturbance that is left after a day, and the standard deviation of each day's new disturbance."""


def make_series(seed, years):
    """The load in GW for each day, from a Monday, 1 January."""
    random, day = np.random.default_rng(seed), np.arange(years * YEAR)
    trend = 60 + 1.5 * day / YEAR
    year = 8 * np.cos(2 * np.pi * day / YEAR) + 2 * np.cos(4 * np.pi * day / YEAR)
    week = np.array([0.0, 1.0, 1.2, 1.0, 0.0, -6.0, -8.5])[day % 7]
    holidays = np.where((day % YEAR >= 357) | (day % YEAR < 1), -6.0, 0.0)
    disturbance = np.zeros(len(day))
    for t in range(1, len(day)):
        disturbance[t] = FADING * disturbance[t - 1] + SHOCK * random.normal()
    return trend + year + week + holidays + disturbance


def windows(series, first, last):
    """For every day of a range: the weeks before it, the week that starts with it, and the dates of the weeks before.

    A date is given by its position in the year and in the week, each as a point on a circle.
    """
    days = np.arange(first, last - HORIZON + 1)[:, None]
    before = days + np.arange(-WINDOW, 0)
    angles = 2 * np.pi * np.stack([before / YEAR, before / 7], axis=-1)
    dates = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    return series[before], series[days + np.arange(HORIZON)], dates


def level(past):
    """The mean of the last week. It is subtracted everywhere, so that the network need not extrapolate the trend."""
    return past[:, -7:].mean(axis=1, keepdims=True)


def forecaster(model, size):
    """A network that reads eight weeks and gives one number for each day of the next week."""
    layer = {"gru": fnn.gru, "lstm": fnn.lstm}[model]
    return fnn.chain(fnn.with_hand_vjp(layer(size)), fnn.dropout(0.2), fnn.dense(HORIZON))


def main(model, size, epochs, out):
    series = make_series(seed=0, years=13)
    scale = np.std(series[:-YEAR])

    def examples(past, future, dates):
        x = np.concatenate([((past - level(past)) / scale)[..., None], dates], axis=-1)
        return np.float32(x), np.float32((future - level(past)) / scale)

    train, test = windows(series, WINDOW, len(series) - YEAR), windows(series, len(series) - YEAR, len(series))
    data = fnn.data.Split(*examples(*train), *examples(*test))
    net = forecaster(model, size)
    schedule = optax.cosine_decay_schedule(1e-2, epochs * len(train[0]) // 32)
    run = fnn.fit(net, fnn.huber, optax.adam(schedule), data, epochs=epochs, batch_size=32, seed=0)
    y, _ = jax.jit(lambda x: net.apply(run.params, run.state, x, train=False))(data.test_x)

    past, future, _ = test
    forecasts = {
        model: np.asarray(y) * scale + level(past),
        "same day of last week": past[:, -HORIZON:],
        "last value": np.repeat(past[:, -1:], HORIZON, axis=1),
    }
    errors = {name: np.abs(forecast - future).mean(axis=0) for name, forecast in forecasts.items()}
    # The disturbance on day h is FADING^h of today's, plus h faded shocks: an error that remains if all else is known.
    unknown = SHOCK * np.sqrt(np.cumsum(FADING ** (2 * np.arange(HORIZON))))
    errors["unavoidable error"] = unknown * np.sqrt(2 / np.pi)

    print(
        f"{model}, {fnn.trees.size(run.params):,} parameters; mean absolute error over the last year in GW, days ahead:"
    )
    print(f"{'':24}" + "".join(f"{day:7}" for day in range(1, HORIZON + 1)) + "    mean")
    for name, error in errors.items():
        print(f"{name:24}" + "".join(f"{value:7.2f}" for value in error) + f"{error.mean():8.2f}")
    if out:
        path = out / "forecast.png"
        draw(path, model, past, future, forecasts, errors)
        print(f"picture: {path}")
    return errors


def draw(path, model, past, future, forecasts, errors):
    """The last weeks of the year, each forecast on the evening before it, and the errors by days ahead."""
    from matplotlib.figure import Figure

    colors = {model: "#d55e00", "same day of last week": "#0072b2", "last value": "#009e73"}
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, width_ratios=(2.3, 1))
    first, weeks = 296, 9
    days = first + np.arange(-14, weeks * HORIZON)
    truth = np.concatenate([past[first, -14:], *future[first : first + weeks * HORIZON : HORIZON]])
    left.plot(days, truth, color="black", lw=1.2, label="truth")
    for week in range(weeks):
        days = first + week * HORIZON + np.arange(HORIZON)
        for name in ("same day of last week", model):
            label = name if week == 0 else None
            forecast = forecasts[name][first + week * HORIZON]
            left.plot(days, forecast, ".-", color=colors[name], lw=1.5, ms=5, alpha=0.9, label=label)
        left.axvline(days[0] - 0.5, color="0.88", lw=0.8, zorder=0)
    left.set(xlabel="day of the held-out year", ylabel="load (GW)", title="every week forecast on the Sunday before")
    left.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    ahead = np.arange(1, HORIZON + 1)
    for name, error in errors.items():
        style = {"color": colors[name], "marker": "o"} if name in colors else {"color": "0.5", "ls": "--"}
        right.plot(ahead, error, ms=4, label=name, **style)
    right.set(xlabel="days ahead", ylabel="mean absolute error (GW)", title="error over the year", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["gru", "lstm"], default="gru")
    parser.add_argument("--out", type=Path, help="folder for the picture (default: no picture)")
    parser.add_argument("--quick", action="store_true", help="a small network, a few epochs")
    arguments = parser.parse_args()
    size, epochs = (16, 3) if arguments.quick else (32, 10)
    main(arguments.model, size, epochs, arguments.out)
