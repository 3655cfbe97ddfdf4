"""The drawing panel: its program in JavaScript against JAX, what it shows of each layer, and what it refuses."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from jax import lax

import functional_nn as fnn
from functional_nn.core.errors import InputError
from functional_nn.core.layer import Layer
from functional_nn.data.images import read_image
from functional_nn.reports import drawing
from functional_nn.reports.portable import OPERATIONS, portable

NAMES = [str(digit) for digit in range(10)]
SHAPE = (12, 12, 1)
# The other models are made of the same layers.
SMALL = {
    "mlp": {"hidden": (16, 8), "batch_norm": True},
    "cnn": {"hidden": (4, 4)},
    "resnet": {"hidden": (4, 8)},
    "rnn": {"hidden": (8, 4)},
    "lstm": {"hidden": (8,)},
    "transformer": {"hidden": (8, 8), "heads": 2},
}

RUN = """
const results = JSON.parse(require("fs").readFileSync(0, "utf8")).map(({ program, parameters, examples }) => {
  const { arrays, run } = compileProgram(readProgram(program));
  parameters.forEach((text, i) => arrays[program.inputs[i + 1]].set(numbersIn(text)));
  return examples.map((example) => {
    example.forEach((values, i) => arrays[program.inputs[i]].set(values));
    run();
    return program.outputs.map((place) => Array.from(arrays[place], String));
  });
});
console.log(JSON.stringify(results));
"""


def in_node(programs) -> list:
    """The results of programs as the page computes them. Each has its parameters, and lists of flat inputs."""
    return printed(RUN, [dict(zip(("program", "parameters", "examples"), one, strict=True)) for one in programs])


def printed(script: str, given) -> Any:
    """What a script prints that knows the functions of the page and reads ``given``."""
    if (node := shutil.which("node")) is None:
        pytest.skip("node is not installed")
    folder = Path(drawing.__file__).parent / "templates"
    script = "".join((folder / name).read_text("utf-8") for name in drawing.SCRIPTS[:2]) + script
    done = subprocess.run([node, "-e", script], input=json.dumps(given), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def numbers(shape) -> np.ndarray:
    """Weights about as large as trained ones; vectors, such as variances, are positive."""
    random = np.random.default_rng(shape)
    if len(shape) == 1:
        return random.uniform(0.1, 0.9, shape).astype(np.float32)
    return (random.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple]:
    """Small named models, with parameters and state that are not those of a new network."""
    made = {}
    for name, options in SMALL.items():
        net = fnn.models.MODELS[name](10, **options)
        shapes = jax.eval_shape(lambda key, net=net: net.init(key, SHAPE), jax.random.key(0))
        made[name] = net, *jax.tree.map(lambda leaf: numbers(leaf.shape), shapes)
    return made


@pytest.fixture(scope="module")
def panels(networks) -> dict[str, dict]:
    images, labels = np.random.default_rng(4).integers(0, 256, (20, *SHAPE), np.uint8), np.arange(20) % 10
    data = fnn.data.make_dataset("few", images, labels, images[:10], labels[:10], source="random numbers")
    return {name: drawing.panel_data(*network, SHAPE, NAMES, data, digits=True) for name, network in networks.items()}


def test_the_page_computes_the_probabilities_of_a_model(networks, panels):
    images = np.random.default_rng(1).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
    examples = [[(image / 255).ravel().tolist()] for image in images]
    found = in_node([(panel["program"], panel["parameters"], examples) for panel in panels.values()])
    for (net, params, state), results in zip(networks.values(), found, strict=True):
        expected = fnn.training.predict_probabilities(net, params, state, images)
        logits = np.array([result[0] for result in results], np.float32)
        np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-4, err_msg=net.name)
        assert expected.std(axis=1).min() > 1e-3, f"{net.name} gives all classes one probability"


@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("border", [0, 255])
def test_the_page_reads_a_picture_as_predict_does(digits, border, tmp_path):
    """Only digits become bright on dark. Another network may have been trained on pictures of a bright page."""
    picture = np.full((6, 6), border, np.uint8)
    picture[2:4, 1:5] = 90
    PIL.Image.fromarray(picture).save(tmp_path / "drawing.png")
    script = """
    const [picture, panel] = JSON.parse(require("fs").readFileSync(0, "utf8"));
    console.log(JSON.stringify(Array.from(networkInput(Uint8Array.from(picture), panel))));
    """
    found = printed(script, [picture.ravel().tolist(), {"imageShape": [6, 6, 1], "areDigits": digits}])
    assert found == read_image(tmp_path / "drawing.png", (6, 6, 1), digits=digits).ravel().tolist()


def test_a_step_of_training_in_the_page_is_that_of_jax_with_its_own_gradient(networks, panels):
    """The hand-derived gradient in JavaScript, beside ``jax.grad`` in JAX."""
    optimizer, random, programs, expected = optax.adam(drawing.STEP_SIZE), np.random.default_rng(3), [], []
    for name in ("cnn", "lstm", "transformer"):
        net, params, state = networks[name]
        program = panels[name]["lesson"]["program"]
        shape = program["shapes"][program["inputs"][-2]]

        @jax.numpy_dtype_promotion("standard")  # as Optax needs it
        @jax.jit
        def step(params, kept, x, labels, net=net, state=state):
            loss = lambda params: fnn.cross_entropy(net.apply(params, state, x, train=False)[0], labels)  # noqa: E731
            updates, kept = optimizer.update(jax.grad(loss)(params), kept, params)
            return optax.apply_updates(params, updates), kept

        trained, examples = (params, optimizer.init(params)), []
        for _ in range(2):
            batch = random.uniform(size=shape).astype(np.float32), random.integers(0, 10, shape[0])
            examples.append([np.ravel(leaf).tolist() for leaf in jax.tree.leaves((trained, batch))])
            trained = step(*trained, *batch)
            expected.append((name, [np.ravel(leaf) for leaf in jax.tree.leaves(trained)]))
        programs.append((program, [], examples))
    for (name, leaves), results in zip(expected, (one for found in in_node(programs) for one in found), strict=True):
        for leaf, result in zip(leaves, results, strict=True):
            # Adam divides by the size of a gradient, so where that is nearly 0 the direction is chance.
            np.testing.assert_allclose(np.float32(result), leaf, rtol=1e-4, atol=2 * drawing.STEP_SIZE, err_msg=name)
            assert np.mean(np.abs(np.float32(result) - leaf) <= 1e-5 + 1e-4 * np.abs(leaf)) > 0.98, name


def every_operation(x):
    """Arrays that together use every operation of portable programs. x is (2, 3, 4)."""
    positive, flag = jnp.abs(x) + 0.5, x > 0.1
    floats = [
        f(x) for f in (jnp.ceil, lax.cos, lax.erf, lax.erfc, lax.exp, lax.exp2, lax.expm1, jnp.floor, lax.logistic)
    ]
    floats += [f(x) for f in (lax.neg, lax.sign, lax.sin, lax.square, lax.tan, lax.tanh)]
    floats += [f(positive) for f in (lax.log, lax.log1p, lax.rsqrt, lax.sqrt)]
    floats += [lax.pow(positive, x), x / positive, lax.max(x, 0.2), lax.min(x, x * x), x + 1, x - positive]
    floats += [lax.round(4 * x + 0.5, lax.RoundingMethod.TO_NEAREST_EVEN), lax.reduce_precision(x, 8, 11)]
    floats += [lax.bitcast_convert_type((x.astype(jnp.int32) + 127) << 23, jnp.float32), jnp.round(jnp.floor(x) / 2)]
    floats += [lax.integer_pow(x, 3), lax.clamp(-0.5, x, 0.5), lax.select(flag, x, -x)]
    flags = [
        lax.eq(x, x),
        lax.ne(x, x),
        x < 0,
        x <= 0,
        x >= 0,
        flag & (x < 1),
        flag | (x < -1),
        ~flag,
        lax.is_finite(x),
    ]
    moved = [x.transpose(2, 0, 1), x[:, None, 1:, ::2], lax.rev(x, (0, 2)), lax.concatenate([x, -x], 1)]
    moved += [lax.pad(x, 7.0, ((1, 2, 1), (-1, 0, 0), (0, -2, 2))), x[:1].squeeze(0)]
    moved += [lax.broadcast_in_dim(x, (2, 3, 5, 4), (0, 1, 3)), *lax.split(x, (1, 2), 1), x.reshape(4, 6)]
    reduced = [f(x, axes) for f in (jnp.sum, jnp.max, jnp.min, jnp.prod) for axes in ((0, 2), (1,))]
    reduced += [lax.argmax(x, 1, jnp.int32), lax.argmin(x, 2, jnp.int32), x.astype(jnp.int32).astype(bool)]
    products = [jnp.einsum("abc,adc->bad", x, x), jnp.einsum("abc,dbe->aecd", x, x)]
    image = x[..., None] * jnp.float32([[[[1, 2, -1, 3]]]])
    kernel = jnp.sin(jnp.arange(48, dtype=jnp.float32)).reshape(2, 2, 2, 6)
    across = ("NHWC", "HWIO", "NCHW")
    products += [lax.conv_general_dilated(image, kernel, (2, 1), ((1, 0), (2, 1)), (1, 2), (2, 1), across, 2)]
    products += [
        lax.conv_general_dilated(x, x[:, :2].transpose(1, 2, 0), (1,), "SAME", None, None, ("NHC", "HIO", "NHC"))
    ]

    def step(carry, part):
        return (carry[1], carry[0] + part), part * carry[0]

    looped = lax.scan(step, (x[0, 0], x[1, 1]), x[0], reverse=True)
    return [jnp.float32(one) for one in (*floats, *flags, *moved, *reduced, *products, *jax.tree.leaves(looped))]


def test_every_operation_of_the_page_computes_what_jax_computes():
    x = jnp.float32(np.random.default_rng(2).normal(size=(2, 3, 4)))
    program = portable(jax.make_jaxpr(every_operation)(x))
    assert {name for name, *_ in program.steps} == {*OPERATIONS, "scan"}
    (found,) = in_node([(drawing.program_data(program), [], [[x.ravel().tolist()]])])
    for number, (one, expected) in enumerate(zip(found[0], jax.jit(every_operation)(x), strict=True)):
        np.testing.assert_allclose(np.float32(one), expected.ravel(), rtol=1e-5, atol=2e-6, err_msg=f"result {number}")


def test_layers_are_those_of_the_summary(networks, panels):
    for name in ("mlp", "resnet", "rnn"):
        net, *_ = networks[name]
        rows = [row for row in fnn.summary(net, SHAPE).rows if "/" not in row.layer]
        assert [(layer["name"], layer["shape"]) for layer in panels[name]["layers"]] == [
            (row.layer, str(row.output_shape)) for row in rows
        ]


def test_the_page_trains_a_model(panels):
    assert all(panel["lesson"] and panel["areDigits"] for panel in panels.values())


def test_pictures_show_channels_rows_units_and_products(panels):
    shown = {
        (name, layer["name"], picture["kind"], picture["size"])
        for name, panel in panels.items()
        for layer in panel["layers"]
        for picture in layer["pictures"]
    }
    assert {
        ("cnn", "conv_0", "channels", (4, 12, 12)),
        ("cnn", "conv_0", "channels", (4, 3, 3)),  # its weights
        ("mlp", "dense_0", "products", (16, 12, 12)),
        ("rnn", "rnn_0", "rows", (1, 12, 8)),
        ("lstm", "lstm_0", "units", (8, 1, 1)),
        ("transformer", "repeat_0", "rows", (1, 12, 8)),
    } <= shown
    assert {name for name, layer, kind, _ in shown if layer.startswith("dense") and kind == "units"} == set(panels)


def test_a_picture_shows_each_number_of_its_array_once(panels):
    for panel in panels.values():
        for picture in (picture for layer in panel["layers"] for picture in layer["pictures"]):
            axes = [np.arange(size) * step for size, step in zip(picture["size"], picture["steps"], strict=True)]
            places = sum(np.ix_(*axes))
            numbers = np.prod(panel["program"]["shapes"][picture["place"]])
            np.testing.assert_array_equal(np.sort(places.ravel()), np.arange(numbers), err_msg=picture["title"])


def test_the_panel_needs_nothing_else_and_escapes_names():
    net = fnn.chain(fnn.flatten(), fnn.dense(2))
    names = ["</script>", "{{ data }}"]
    html = drawing.drawing_panel(drawing.panel_data(net, *net.init(jax.random.key(0), (4, 4, 1)), (4, 4, 1), names))
    assert html.count("</script>") == 2
    for word in ("http", "src=", "@import", "url(", "fetch("):
        assert word not in html
    assert "Draw a picture" in html


def sorting() -> Layer:
    return Layer(
        "sorting", lambda key, shape: ({}, {}), lambda params, state, x, *, train, key=None: (jnp.sort(x), {}, ())
    )


@pytest.mark.parametrize(
    ("net", "shape", "names", "words"),
    [
        (
            fnn.chain(fnn.flatten(), fnn.dense(2), sorting()),
            (4, 4, 1),
            "ab",
            "operations that the page can compute, got 'sort'",
        ),
        (fnn.chain(fnn.flatten(), fnn.dense(2)), (4, 4, 2), "ab", "1 or 3 channels"),
    ],
)
def test_what_a_page_cannot_show_is_refused(net, shape, names, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        drawing.panel_data(net, *net.init(jax.random.key(0), shape), shape, list(names))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: ~x.astype(int), "not of integers"),
        (lambda x: x.astype(int) & 1, "and of integers"),
        (lambda x: x.astype(int) | 1, "or of integers"),
        (lambda x: lax.select_n(x.astype(int), x, -x), "select_n with 2 cases, chosen by int32"),
        (lambda x: lax.select_n(x.astype(int), x, 2 * x, -x), "select_n with 3 cases, chosen by int32"),
    ],
)
def test_integers_that_the_page_would_take_for_flags(function, words):
    with pytest.raises(InputError, match=f"operations that the page can compute, got '?{words}"):
        portable(jax.make_jaxpr(function)(jnp.ones(3)))


def test_parameters_that_are_not_finite_are_refused():
    net = fnn.chain(fnn.flatten(), fnn.dense(2))
    params, state = net.init(jax.random.key(0), (2, 2, 1))
    params["dense_0"]["bias"] = params["dense_0"]["bias"].at[0].set(jnp.nan)
    with pytest.raises(InputError, match="finite numbers"):
        drawing.panel_data(net, params, state, (2, 2, 1), ["a", "b"])
