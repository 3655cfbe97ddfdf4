"""Training steps in ONNX and StableHLO, which other programs run; the runners in examples/ that do so."""

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file
from tests.other_process import python

import functional_nn as fnn
from functional_nn import cli
from functional_nn.core.errors import InputError
from functional_nn.exchange import (
    onnx_models,
    to_onnx_training,
    to_stablehlo_training,
    training_step,
    training_steps,
)

RUNNERS = Path(__file__).resolve().parents[2] / "examples" / "train_anywhere"


@pytest.fixture
def onnxruntime():
    pytest.importorskip("jax2onnx")
    return pytest.importorskip("onnxruntime")


def example(net, in_shape, loss=fnn.cross_entropy):
    """The arguments of a training step (network, loss, optimizer and trees), and a batch."""
    params, state = net.init(jax.random.key(0), in_shape)
    x = np.random.default_rng(0).normal(size=(6, *in_shape)).astype(np.float32)
    optimizer = optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)
    return (net, loss, optimizer, params, state), x, np.arange(6, dtype=np.int32) % 3


def steps_of_onnx_runtime(onnxruntime, folder, batches, **changed):
    """What ONNX Runtime returns, step by step, by name; ``changed`` values replace those of the folder at the start."""
    session = onnxruntime.InferenceSession(folder / "train.onnx")
    names = json.loads((folder / "names.json").read_text())
    results = [*names["results"], *(f"new/{name}" for name in names["values"])]
    values = load_file(folder / "start.safetensors") | changed
    for batch in batches:
        outputs = dict(zip(results, session.run(results, {**values, **batch}), strict=True))
        values = {name: outputs[f"new/{name}"] for name in names["values"]}
        yield outputs


def test_a_folder_trains_as_jax_does(onnxruntime, tmp_path):
    """Convolutions, batch norm, an accurate derivative by bits, and a reverse loop; weights of examples, and L2."""
    net = fnn.chain(fnn.conv(4, (3,)), fnn.batch_norm(), fnn.gelu, fnn.max_pool((2,)), fnn.gru(3), fnn.dense(3))

    def loss(y, labels):
        return fnn.cross_entropy(y, labels["class"], labels["weight"])

    arguments, x, classes = example(net, (8, 2), loss)
    labels = {"class": classes, "weight": np.float32([1, 2, 0, 1, 1, 3])}
    metrics = {"twice": lambda y, labels: 2 * loss(y, labels)}
    step = training_step(*arguments, penalty=fnn.l2(0.01), metrics=metrics)
    to_onnx_training(step, x, labels, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"new"}

    (rate,) = [name for name in step.values if name.endswith("/learning_rate")]
    changed = {rate: np.array(0.2, np.float32)}
    values = step.values | changed
    batch = {"input": x, "labels_class": labels["class"], "labels_weight": labels["weight"]}
    for outputs in steps_of_onnx_runtime(onnxruntime, tmp_path / "new", [batch] * 3, **changed):
        results, values = jax.jit(step.function)(values, x, labels)
        assert outputs["loss"] == pytest.approx(float(results["loss"]), rel=1e-4)
        assert outputs["twice"] == pytest.approx(2 * outputs["loss"])
    new = {name.removeprefix("new/"): value for name, value in outputs.items() if name.startswith("new/")}
    assert new.keys() == values.keys() - {"key"}
    for name, value in new.items():
        np.testing.assert_allclose(value, values[name], rtol=1e-3, atol=1e-5)


def test_nothing_is_written_where_a_link_of_another_user_leads(onnxruntime, tmp_path, monkeypatch):
    """He can write to the folder above, and puts a link in the place of the half-written folder."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "names.json").write_text("kept")

    def replace_folder(*arguments):
        (beside,) = tmp_path.glob(".*")
        beside.rename(tmp_path / "aside")
        beside.mkdir()
        (beside / "whole").symlink_to(tmp_path / "victim")
        return b""

    monkeypatch.setattr(training_steps, "packed", replace_folder)
    arguments, x, classes = example(fnn.dense(3), (2,))
    to_onnx_training(training_step(*arguments), x, classes, tmp_path / "new")
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["names.json"]
    assert (tmp_path / "victim" / "names.json").read_text() == "kept"
    assert not (tmp_path / "new").is_symlink()
    assert json.loads((tmp_path / "new" / "names.json").read_text())


RULES = {"momentum": optax.sgd(0.005, momentum=0.9), "adam": optax.adam(1e-3), "adamw": optax.adamw(1e-3)}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", fnn.models.MODELS)
def test_named_models_train_as_by_the_step_of_fit(onnxruntime, tmp_path, model, rule):
    """With batch norm, rounding decides on which side of 0 the input of a relu is, and the losses part slowly."""
    data, net, rule = fnn.load_dataset("mnist5k"), fnn.model(model, 10), RULES[rule]
    images, classes = np.float32(data.train_images / 255), np.int32(data.train_labels)
    batches = [{"input": images[i::80], "labels": classes[i::80]} for i in [*range(80), *range(20)]]
    train_state = fnn.training.create_train_state(net, rule, jax.random.key(0), (28, 28, 1))
    exported = training_step(net, fnn.cross_entropy, rule, train_state.params, train_state.state)
    to_onnx_training(exported, *batches[0].values(), tmp_path / "new")
    train = jax.jit(fnn.training.make_train_step(net, fnn.cross_entropy, rule))
    differences = []
    for batch, outputs in zip(batches, steps_of_onnx_runtime(onnxruntime, tmp_path / "new", batches), strict=True):
        train_state, loss = train(train_state, *batch.values())
        differences.append(abs(float(loss) - outputs["loss"]))
    assert max(differences[:3]) < 1e-4
    assert max(differences) < (0.05 if train_state.state else 1e-4)
    evaluation = onnxruntime.InferenceSession(tmp_path / "new" / "evaluate.onnx")
    values = {one.name: outputs.get(f"new/{one.name}") for one in evaluation.get_inputs()}
    values["input"] = np.float32(data.test_images / 255)
    expected = fnn.training.predict(net, train_state.params, train_state.state, values["input"])
    answers = [np.argmax(y, axis=1) for y in (evaluation.run(None, values)[0], expected)]
    assert np.mean(answers[0] == data.test_labels) == pytest.approx(np.mean(answers[1] == data.test_labels), abs=0.01)


def test_what_cannot_train_is_an_error_that_names_it(onnxruntime, tmp_path, monkeypatch):
    def export(net, gradient="formula", name="new"):
        arguments, x, labels = example(net, (4,))
        to_onnx_training(training_step(*arguments, gradient=gradient), x, labels, tmp_path / name)

    with pytest.raises(InputError, match=r"draw no random numbers, got random numbers in dropout_0\."):
        export(fnn.chain(fnn.dense(4), fnn.dropout(0.5), fnn.dense(3)))
    with pytest.raises(InputError, match=r"net: expected (operations|a model) that"):
        export(fnn.chain(fnn.dense(3), lambda x: jnp.fft.fft(x).real), gradient="jax")
    # A wrong step is found by training.
    monkeypatch.setitem(onnx_models.REPLACEMENTS, "transpose", lambda equation, x: 0.9 * jax.lax.transpose(x, (1, 0)))
    with pytest.raises(InputError, match=r"trains in ONNX Runtime as in JAX, got one where \w+ differs by"):
        export(fnn.chain(fnn.dense(4), fnn.dense(3)))
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").write_text("mine")
    with pytest.raises(InputError, match=r"folder: expected a new or empty folder, got .*old"):
        export(fnn.dense(3), name="old")


TRAIN_WITH_JAX_ALONE = """
import json, sys
import jax, numpy as np

with open(sys.argv[1], "rb") as file:
    header, numbers = json.loads(file.read(int.from_bytes(file.read(8), "little"))), file.read()
types = {"F32": np.float32, "I32": np.int32, "U32": np.uint32, "U8": np.uint8}
values = {
    name: np.frombuffer(numbers[slice(*array["data_offsets"])], types[array["dtype"]]).reshape(array["shape"])
    for name, array in header.items() if name != "__metadata__"
}
step = jax.export.deserialize(bytearray(values.pop("program").tobytes()))
x, labels = np.eye(4, dtype=np.float32), np.int32([0, 1, 2, 0])
losses = []
for _ in range(20):
    results, values = step.call(values, x, labels)
    losses.append(float(results["loss"]))
assert not any(name.startswith("functional_nn") for name in sys.modules)
print(json.dumps(losses))
"""


@pytest.mark.processes
def test_stablehlo_trains_in_a_process_that_has_only_jax(tmp_path):
    """Also in a batch of another size, and with random numbers."""
    pytest.importorskip("flatbuffers")
    net = fnn.chain(fnn.dense(8), fnn.relu, fnn.dropout(0.1), fnn.dense(3))
    arguments, x, labels = example(net, (4,))
    step = training_step(*arguments)
    to_stablehlo_training(step, x, labels, tmp_path / "train.stablehlo")
    losses = json.loads(python(TRAIN_WITH_JAX_ALONE, tmp_path / "train.stablehlo").stdout)
    results, _ = step.function(step.values, np.eye(4, dtype=np.float32), np.int32([0, 1, 2, 0]))
    assert losses[0] == pytest.approx(float(results["loss"]), rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder that the command wrote, and a file of images for the runners."""
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    place = tmp_path_factory.mktemp("digits")
    flags = ["--epochs", "1", "--hidden", "16", "--optimizer", "adam", "--batch-size", "50"]
    assert cli.run(["train", *flags, "--out", str(place / "run")]) == 0
    assert cli.run(["export", str(place / "run"), "--to", "onnx-training", "--out", str(place / "folder")]) == 0
    data = fnn.load_dataset("mnist5k")
    np.savez(place / "images.npz", images=data.test_images, labels=data.test_labels)
    return place


def test_the_runner_without_jax(digits):
    command = [sys.executable, "-X", "importtime", str(RUNNERS / "train.py"), "folder", "images.npz", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=digits)
    lines = done.stdout.splitlines()
    assert lines[2].startswith("epoch 3: loss ")
    assert float(lines[2].rpartition(" ")[2]) > float(lines[0].rpartition(" ")[2]) > 0.8
    assert not {"jax", "functional_nn"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


TRAIN_IN_PAGE = """async () => {
    const ort = await import("/ort/ort.wasm.min.mjs");
    const { load, outputs, train } = await import("/train.js");
    const model = await load(ort, async (name) => (await fetch(`/folder/${name}`)).arrayBuffer());
    const images = new Float32Array(50 * 784).map((_, i) => (i % 17) / 17);
    const results = [];
    for (let i = 0; i < 5; i++) results.push(await train(model, images, new Int32Array(50).map((_, i) => i % 10)));
    return [results.map((one) => one.loss), (await outputs(model, images.slice(784))).length];
}"""


@pytest.mark.browser
def test_the_runner_in_a_browser(digits, browser, onnxruntime):
    """The losses are those of ONNX Runtime in Python. Set ONNXRUNTIME_WEB to the folder of the npm package."""
    package = os.environ.get("ONNXRUNTIME_WEB")
    if package is None:
        pytest.skip("npm install onnxruntime-web, and set ONNXRUNTIME_WEB=node_modules/onnxruntime-web")
    served = digits / "served"
    served.mkdir()
    (served / "index.html").write_text("<!DOCTYPE html>")
    (served / "train.js").symlink_to(RUNNERS / "train.js")
    (served / "ort").symlink_to(Path(package, "dist").resolve())
    (served / "folder").symlink_to(digits / "folder")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietFiles, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        found = page.evaluate(TRAIN_IN_PAGE)
        page.close()
        server.shutdown()
    images = (np.arange(50 * 784, dtype=np.float32) % 17 / 17).reshape(50, 28, 28, 1)
    batches = [{"input": images, "labels": np.arange(50, dtype=np.int32) % 10}] * 5
    losses = [float(one["loss"]) for one in steps_of_onnx_runtime(onnxruntime, digits / "folder", batches)]
    assert found[0] == pytest.approx(losses, rel=1e-4)
    assert found[1] == 490


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


def test_a_step_that_does_not_fit_in_memory_is_refused_before_it_is_computed(tmp_path, monkeypatch):
    """A batch of images may fit in memory where what a network makes of it does not."""
    arguments, x, labels = example(fnn.chain(fnn.dense(1000), fnn.relu, fnn.dense(3)), (4,))
    step = training_step(*arguments)
    monkeypatch.setattr("functional_nn.exchange.training_steps.imported", lambda *about, **more: None)
    monkeypatch.setattr("functional_nn.training.devices.available_bytes", lambda: 10_000)
    with pytest.raises(InputError, match="x: expected a network that fits in"):
        to_onnx_training(step, x, labels, tmp_path / "new")
