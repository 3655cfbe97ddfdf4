"""``functional-nn export``, ``import`` and ``train --from``: out of a run folder, into one, and on from there."""

import errno
import importlib.util
import json
import re
import shutil
import tracemalloc
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.cli.conftest import reported
from tests.storage.manifests import sign_result

import functional_nn as fnn
from functional_nn import cli
from functional_nn.data import write_idx

pytestmark = pytest.mark.usefixtures("no_pages")
FILES = {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}


@pytest.fixture(scope="module")
def state_dict():
    """The arrays of a PyTorch model 16-8-3 whose first layers were named in another order than they run."""
    rng = np.random.default_rng(0)
    shapes = {"fc1.weight": (8, 16), "fc1.bias": (8,), "out.weight": (3, 8), "out.bias": (3,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def images(tiny):
    """The flags of the small data set."""
    return tiny[1:5]


@pytest.fixture
def imported(state_dict, images, tmp_path, capsys):
    save_file(state_dict, tmp_path / "model.safetensors")
    arguments = ["import", str(tmp_path / "model.safetensors"), *images, "--hidden", "8"]
    assert cli.run([*arguments, "--out", str(tmp_path / "imported")]) == 0
    capsys.readouterr()
    return tmp_path / "imported"


# Out


def test_a_hub_folder_is_whole_and_has_no_paths_of_this_computer(finished, tmp_path):
    assert cli.run(["export", str(finished.folder), "--to", "hub", "--out", str(tmp_path / "hub")]) == 0
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {*FILES, "README.md"}
    card = (tmp_path / "hub" / "README.md").read_text()
    accuracy = json.loads(finished.json.read_text())["test_accuracy"]
    for text in ("library_name: functional_nn", f"| test accuracy | {accuracy:.4f} |", "`dense_0/weight` | 784 x 64"):
        assert text in card
    assert "functional-nn train --hidden 64 --activation relu --epochs 5\n" in card
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "hub").rename(moved)
    network, run = fnn.exchange.load(moved), fnn.exchange.load(finished.folder)
    x = fnn.load_dataset("mnist5k").test_images[:20]
    np.testing.assert_array_equal(network.predict(x), run.predict(x))
    np.testing.assert_allclose(network.predict(x), network.predict(np.float32(x / 255.0)), atol=1e-6)
    assert network.predict(x).sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_full_disk_leaves_no_half_of_a_hub_folder(finished, tmp_path, monkeypatch, is_new):
    def full(*about):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "hub"
    if not is_new:
        folder.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("functional_nn.storage.run_folder.save_parameters", full)
        with pytest.raises(OSError, match="No space"):
            fnn.exchange.to_hub(finished.folder, folder)
    assert list(tmp_path.rglob("*")) == ([] if is_new else [folder])
    fnn.exchange.to_hub(finished.folder, folder)


def test_nothing_is_overwritten(finished, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    for kind in ("stablehlo", "torch"):
        refused(["export", finished.folder, "--to", kind, "--out", tmp_path / "file"], "--out", "exists")
    assert (tmp_path / "file").read_text() == "mine"
    refused(["export", finished.folder, "--to", "hub", "--out", tmp_path], "new or empty")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
    refused(["export", finished.folder, "--to", "hub", "--out", finished.folder], "new or empty")
    refused(["import", tmp_path / "file", "--out", finished.folder], "--out: expected a new or empty folder")


def test_what_an_export_cannot_do_is_said(finished, tmp_path, refused):
    refused(["export", tmp_path, "--to", "hub", "--out", tmp_path / "x"], "config.json", "train --out")
    refused(["export", finished.folder, "--to", "tourch", "--out", tmp_path / "x"], "torch")
    refused(["export", finished.folder, "--to", "torch", "--out", tmp_path / "x.npz"], "--out", ".safetensors")
    refused(["export", finished.folder, "--to", "hub", "--gradient", "--out", tmp_path / "x"], "--gradient")
    refused(["export", finished.folder, "--to", "torch", "--out", tmp_path / "no" / "x"], "folder that exists")
    refused(["export", finished.folder, "--to", "hub", "--like", "a", "--out", tmp_path / "x"], "--like")
    trains = ["export", finished.folder, "--what", "train"]
    for more in (["onnx"], ["stablehlo", "--gradient"]):
        refused([*trains, "--to", *more, "--out", tmp_path / "x"], "--what")
    assert not list(tmp_path.iterdir())


def test_stablehlo_is_the_network(finished, tmp_path):
    path = tmp_path / "digits.stablehlo"
    assert cli.run(["export", str(finished.folder), "--to", "stablehlo", "--out", str(path)]) == 0
    x = np.float32(fnn.load_dataset("mnist5k").test_images[:7] / 255.0)
    values = load_file(path)
    program = jax.export.deserialize(bytearray(values.pop("program").tobytes()))
    found = jax.nn.softmax(program.call(values, x))
    np.testing.assert_allclose(found, fnn.exchange.load(finished.folder).predict(x), atol=1e-6)


def test_stablehlo_has_a_training_step(finished, tmp_path):
    """JAX alone runs it, from the parameters of the run, and with its loss and optimizer."""
    path = tmp_path / "step.stablehlo"
    assert cli.run(["export", str(finished.folder), "--to", "stablehlo", "--what", "train", "--out", str(path)]) == 0
    values = load_file(path)
    step = jax.export.deserialize(bytearray(values.pop("program").tobytes()))
    data, network = fnn.load_dataset("mnist5k"), fnn.exchange.load(finished.folder)
    x, labels = np.float32(data.test_images[:50] / 255.0), np.int32(data.test_labels[:50])
    results, new = step.call(values, x, labels)
    probabilities = network.predict(x)
    assert float(results["loss"]) == pytest.approx(-np.log(probabilities[range(50), labels]).mean(), rel=1e-4)
    assert float(results["accuracy"]) == pytest.approx((probabilities.argmax(1) == labels).mean())
    assert new.keys() == values.keys()
    assert float(step.call(new, x, labels)[0]["loss"]) < float(results["loss"])


def test_onnx_needs_its_extra_or_is_the_network(finished, tmp_path, refused):
    path = tmp_path / "digits.onnx"
    arguments = ["export", str(finished.folder), "--to", "onnx", "--out", str(path)]
    if not (importlib.util.find_spec("jax2onnx") and importlib.util.find_spec("onnxruntime")):
        refused(arguments, "pip install 'functional-nn[onnx]'")
        assert not path.exists()
        return
    import onnxruntime

    assert cli.run(arguments) == 0
    x = np.float32(fnn.load_dataset("mnist5k").test_images[:7] / 255.0)
    (logits,) = onnxruntime.InferenceSession(path).run(["output"], {"input": x})
    np.testing.assert_allclose(jax.nn.softmax(logits), fnn.exchange.load(finished.folder).predict(x), atol=1e-6)


# In


def test_a_state_dict_goes_in_and_comes_out_with_the_same_bits(state_dict, imported, tmp_path):
    x = np.random.default_rng(1).uniform(size=(5, 4, 4, 1)).astype(np.float32)
    w = state_dict
    hidden = np.maximum(x.reshape(5, 16) @ w["fc1.weight"].T + w["fc1.bias"], 0)
    expected = jax.nn.softmax(hidden @ w["out.weight"].T + w["out.bias"])
    np.testing.assert_allclose(fnn.exchange.load(imported).predict(x), expected, atol=1e-6)
    like = ["--like", str(tmp_path / "model.safetensors")]
    out = tmp_path / "again.safetensors"
    assert cli.run(["export", str(imported), "--to", "torch", *like, "--out", str(out)]) == 0
    again = load_file(out)
    assert again.keys() == w.keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, w[name])


def test_export_pairs_layers_as_it_is_told(state_dict, imported, tmp_path, refused):
    """Of the names in a file only the order of the alphabet is known."""
    renamed = {name.replace("out", "a").replace("fc1", "b"): array for name, array in state_dict.items()}
    save_file(renamed, tmp_path / "like.safetensors")
    to_torch = ["export", imported, "--to", "torch", "--out", tmp_path / "again.safetensors"]
    pairs = ["--pair", "dense_0=b", "--pair", "dense_1=a"]
    refused([*to_torch, "--like", tmp_path / "like.safetensors"], "does not fit a (bias (3,)")
    refused([*to_torch, *pairs], "--pair", "--like")
    arguments = [*to_torch, "--like", tmp_path / "like.safetensors", *pairs]
    assert cli.run([str(argument) for argument in arguments]) == 0
    for name, array in load_file(tmp_path / "again.safetensors").items():
        np.testing.assert_array_equal(array, renamed[name])


def test_a_tensor_of_one_number_and_a_huge_shape_is_not_converted(state_dict, images, tmp_path, monkeypatch, refused):
    """A tensor that PyTorch has expanded takes a few bytes in the file and in memory."""
    (tmp_path / "model.safetensors").touch()
    huge = state_dict | {"out.weight": np.broadcast_to(np.float64(1), (3, 10**8))}
    monkeypatch.setattr("functional_nn.exchange.torch._arrays_of_file", lambda argument, path: huge)
    arguments = ["import", tmp_path / "model.safetensors", *images, "--hidden", "8", "--out", tmp_path / "run"]
    tracemalloc.start()
    refused(arguments, "does not fit out")
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()


def test_numbers_of_other_types_become_those_of_the_network(state_dict, images, tmp_path, refused):
    """Files often have half precision. A network that was imported can be read again, and is exported."""
    for dtype, precision in ((np.float16, "float32"), (np.float64, "bfloat16")):
        save_file({name: array.astype(dtype) for name, array in state_dict.items()}, tmp_path / "other.safetensors")
        out = tmp_path / f"from {np.dtype(dtype).name}"
        arguments = [*images, "--hidden", "8", "--precision", precision, "--out", str(out)]
        assert cli.run(["import", str(tmp_path / "other.safetensors"), *arguments]) == 0
        weight = fnn.exchange.load(out).params["dense_0"]["weight"]
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, state_dict["fc1.weight"].astype(dtype).astype(np.float32).T)
    state = state_dict | {"out.bias": np.float32([0, np.nan, 0])}
    save_file(state, tmp_path / "other.safetensors")
    arguments[-1] = tmp_path / "x"
    refused(["import", tmp_path / "other.safetensors", *arguments], "NaN or infinity in params/dense_1/bias")
    assert not (tmp_path / "x").exists()


def test_layers_of_equal_shapes_are_paired_by_the_user(images, tmp_path, refused):
    """The alphabetical order of a file is not that of the network."""
    first, last = np.eye(16, dtype=np.float32), np.zeros((3, 16), np.float32)
    last[[0, 1, 2], [0, 1, 2]] = 10
    file = tmp_path / "model.safetensors"
    weights = {"b.weight": 5 * first, "b.bias": first[0], "a.weight": first[::-1] * 1.0, "a.bias": 0 * first[0]}
    save_file(weights | {"out.weight": last, "out.bias": np.zeros(3, np.float32)}, file)
    arguments = ["import", str(file), *images, "--hidden", "16,16"]
    refused([*arguments, "--out", tmp_path / "x"], "order of the alphabet: dense_0=a, dense_1=b. Pair each", "--pair")
    pairs = ["--pair", "dense_0=b", "--pair", "dense_1=a"]
    assert cli.run([*arguments, *pairs, "--out", str(tmp_path / "paired")]) == 0
    params = fnn.exchange.load(tmp_path / "paired").params
    np.testing.assert_array_equal(params["dense_0"]["weight"], weights["b.weight"].T)
    refused([*arguments, "--pair", "dense_0", "--out", tmp_path / "x"], "--pair")
    refused([*arguments, "--pair", "dense_9=a", "--out", tmp_path / "x"], "dense_9")


def test_an_import_that_met_a_full_disk_can_be_run_again(state_dict, images, tmp_path, monkeypatch, refused):
    save_file(state_dict, tmp_path / "model.safetensors")
    arguments = ["import", tmp_path / "model.safetensors", *images, "--hidden", "8", "--out", tmp_path / "run"]
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("functional_nn.storage.run_folder.save_parameters", Mock(side_effect=full))
        refused(arguments, "No space left", status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert cli.run([str(argument) for argument in arguments]) == 0


def test_what_does_not_fit_is_listed(imported, images, tmp_path, refused):
    file = tmp_path / "model.safetensors"
    refused(
        ["import", file, *images, "--hidden", "9", "--out", tmp_path / "x"],
        "dense_0 (dense: bias (9,), weight (16, 9)) does not fit fc1 (bias (8,), weight (8, 16))",
    )
    refused(["import", imported, *images, "--out", tmp_path / "x"], "a folder", "train --from")
    refused(["import", tmp_path / "none", *images, "--out", tmp_path / "x"], "none", "no such file")
    refused(["import", file, *images, "--hidden", "8,8", "--out", tmp_path / "x"], "--pair", "--hidden")
    refused(["import", file, "--data-dir", tmp_path, "--out", tmp_path / "x"], str(tmp_path))
    assert not (tmp_path / "x").exists()
    # A folder that was there before stays.
    (tmp_path / "mine").mkdir()
    refused(["import", file, *images, "--hidden", "9", "--out", tmp_path / "mine"], "does not fit")
    assert (tmp_path / "mine").exists()


def test_an_imported_run_has_a_page_and_a_model_card(imported, tmp_path):
    page = reported(imported)
    assert "has imported parameters (model.safetensors)" in page
    assert "learning rate" not in page
    card = (fnn.exchange.to_hub(imported, tmp_path / "hub") / "README.md").read_text()
    assert "The parameters were imported from the file `model.safetensors`." in card
    assert "functional-nn train" not in card


# On


def arrays(folder):
    return load_file(folder / "model.safetensors")


def test_training_goes_on_from_a_run_and_resumes_only_with_the_same_start(imported, tmp_path, tiny, capsys, refused):
    """The network comes from the run, and frozen parameters keep their bits."""
    data = tiny[1:5]
    arguments = ["train", *data, "--epochs", "2", "--batch-size", "20", "--out", str(tmp_path / "run")]
    begun = [*arguments, "--from", str(imported), "--freeze", "dense_0/*"]
    assert cli.run(begun) == 0
    assert "mlp 8-3" in capsys.readouterr().out
    before, after = arrays(imported), arrays(tmp_path / "run")
    for path, array in before.items():
        assert (array == after[path]).all() == ("dense_0" in path)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["from"]["run"], config["hidden"], config["freeze"]) == ("imported", [8], "dense_0/*")
    assert "from the parameters of another run (imported)" in reported(tmp_path / "run")
    alone = ["train", *data[2:], "--out", str(tmp_path / "run"), "--resume"]
    refused(alone, "--from with the run that", "(imported)")
    (tmp_path / "run" / "checkpoints" / "0000000002.checkpoint.safetensors").unlink()
    assert cli.run([*alone, "--from", str(imported)]) == 0
    for path, array in arrays(tmp_path / "run").items():
        np.testing.assert_array_equal(array, after[path])


@pytest.fixture
def five_classes(tmp_path):
    """The images of ``tiny``, with two more classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        labels = np.arange(count, dtype=np.uint8) % 5
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", rng.integers(0, 250, (count, 4, 4), np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
    return ["--dataset", "five", "--data-dir", str(tmp_path)]


def test_a_new_last_layer_for_other_classes(imported, five_classes, tmp_path, capsys, refused):
    """Also with augmentation, which puts the network into a chain."""
    arguments = ["train", "--from", str(imported), *five_classes, "--epochs", "1", "--batch-size", "20", "--shift", "1"]
    frozen = ["--freeze", "dense_0/*"]
    assert cli.run([*arguments, *frozen, "--out", str(tmp_path / "run")]) == 0
    assert "New, because their shapes differ: params/dense_1/bias, params/dense_1/weight" in capsys.readouterr().out
    before, after = arrays(imported), arrays(tmp_path / "run")
    np.testing.assert_array_equal(after["params/mlp_0/dense_0/weight"], before["params/dense_0/weight"])
    assert after["params/mlp_0/dense_1/weight"].shape == (8, 5)
    capsys.readouterr()
    flags = [*five_classes[2:], "--epochs", "1", "--batch-size", "20"]
    again = ["train", "--from", str(tmp_path / "run"), *flags, "--freeze", "dense_*"]
    refused([*again, "--out", tmp_path / "x"], "--freeze", "leave parameters to train")
    again[-1] = "dense_0/*, dense_1/bias"
    assert cli.run([*again, "--out", str(tmp_path / "again")]) == 0
    for path in ("dense_0/weight", "dense_1/bias"):
        tuned = arrays(tmp_path / "again")[f"params/{path}"]
        np.testing.assert_array_equal(tuned, after[f"params/mlp_0/{path}"])
    # The parameters of a run with augmentation go out by the paths of the network itself, and in again.
    file = tmp_path / "five.safetensors"
    assert cli.run(["export", str(tmp_path / "run"), "--to", "torch", "--out", str(file)]) == 0
    assert "dense_0.weight" in load_file(file)
    assert cli.run(["import", str(file), *five_classes, "--hidden", "8", "--out", str(tmp_path / "in")]) == 0
    x = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    found, expected = (fnn.exchange.load(tmp_path / name).predict(x) for name in ("in", "run"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_a_start_cannot_be_is_said(imported, tiny, tmp_path, refused):
    arguments = ["train", "--from", imported, "--out", tmp_path / "x"]
    refused(arguments, "--from: expected the data to train on, by --data-dir", "trained on 'tiny'")
    arguments += tiny[tiny.index("--data-dir") :][:2]
    refused([*arguments, "--hidden", "8,8"], "--from", "--hidden", "dense_2")
    refused([*arguments, "--hidden", "9"], "--hidden", "params/dense_0/weight float32(16, 8)")
    refused([*arguments[:-2], "--dataset", "mnist5k"], "--from", "(28, 28, 1)")
    refused([*arguments, "--freeze", "conv*"], "--freeze", "There are: dense_0/bias")
    refused([*arguments, "--freeze", "dense_0/*, dense_9/*"], "--freeze", "got 'dense_9/*'")
    refused([*arguments, "--model", "lstm"], "--from: expected a run of the model lstm")
    refused(["train", "--from", tmp_path / "none", "--out", tmp_path / "x"], "nothing there")
    assert not (tmp_path / "x").exists()


def test_a_hostile_result_is_no_raw_error(finished, tmp_path):
    """Checksums are no signature: whoever makes a folder can sign any result."""
    for number, wrong in enumerate(
        [
            {"kept_epoch": 99},
            {"kept_epoch": "abc"},
            {"test_x\n": 2.0},
            {'test_<img src="//a">[b](//c)| a': 2.0},
            {"test_y": 10**400},
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(finished.folder, folder)
        sign_result(folder, **wrong)
        assert number or cli.run(["report", str(folder)]) == 0
        if number in (1, 4):
            with pytest.raises(fnn.DataError, match=rf"the result of a run, got a damaged one \({next(iter(wrong))} "):
                fnn.exchange.to_hub(folder, tmp_path / "hub")
            continue
        card = (fnn.exchange.to_hub(folder, tmp_path / f"hub {number}") / "README.md").read_text()
        assert "The run had 5 epochs.\n" in card
        assert "test x\n" not in card  # a name with a line break would end the row of the table
        assert not re.search(r"<|\]\(|\| a", card)  # a name makes no HTML, link or cell of the table
