"""Values of grid files and of ``config.json``, which are checked as the flags of the command are."""

import pytest

from functional_nn import cli
from functional_nn.configuration.settings import members_of_file

REFUSED = {
    "learning_rate": [-1, 0, '"fast"', "true"],
    "dropout": [1.5, -0.1],
    "optimizer": ['"adm"', 3],
    "model": ['"perceptron"', f'"{"x" * 500}"'],
    "activation": ['"rleu"'],
    "epochs": [0, 1.5, "true", '""'],
    "batch_size": [-1, 64.0],
    "hidden": [0, "[64, 0]", "[1.5]", '"x"'],
    "l1": [-1],
    "clip_norm": [0],
    "shift": [-1],
    "seed": [-1, 2**32],
    "batch_norm": [3, '"perhaps"'],
}


def refusal(capsys, *arguments) -> str:
    """The last line of a command that is refused before any data set is read. Click writes the usage before it."""
    assert cli.run(["sweep", "--dataset", "none", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("name", REFUSED)
def test_a_grid_file_is_refused_what_the_flag_is_refused(tmp_path, capsys, name):
    path = tmp_path / "grid.toml"
    for value in REFUSED[name]:
        path.write_text(f"[[members]]\n{name} = {value}\n")
        said = refusal(capsys, "--grid", path)
        assert said.startswith(f"Error: Invalid value for '--{name.replace('_', '-')}': {path}, member 0, {name}: ")
        assert len(said) < len(str(path)) + 400


def test_the_words_are_those_of_the_flag(tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text("[grid]\nlearning_rate = [0.1, -1]\n")
    assert cli.run(["sweep", "--learning-rate", "0.1,-1"]) == 2
    *_, of_the_flag = capsys.readouterr().err.splitlines()
    of_the_file = refusal(capsys, "--grid", path)
    assert of_the_file.replace(f"{path}, member 1, learning_rate: ", "") == of_the_flag


@pytest.mark.parametrize(
    ("column", "flags"),
    [("learning_rate", ["--learning-rate", "0.5"]), ("seed", ["--seeds", "8"]), ("seed", ["--seed", "5"])],
)
def test_a_flag_that_the_file_would_replace(tmp_path, capsys, column, flags):
    path = tmp_path / "grid.toml"
    path.write_text(f"[[members]]\n{column} = 1\n")
    said = refusal(capsys, "--grid", path, *flags)
    assert f"--grid: expected names whose flags are not given, got {flags[0]} in addition. Leave out" in said


@pytest.mark.parametrize("name", ["precision", "dataset", "out", "devices", "momentum", "x" * 500])
def test_columns_that_may_not_differ_between_members(tmp_path, capsys, name):
    """The whole sweep had the value of the first member."""
    path = tmp_path / "grid.toml"
    path.write_text(f"[[members]]\nlearning_rate = 0.1\n{name} = 1\n")
    said = refusal(capsys, "--grid", path)
    assert "--grid: expected names of flags (model, hidden," in said
    assert "x" * 81 not in said


def test_values_become_what_the_flags_make_of_them(tmp_path):
    given = {"hidden": (64, 32), "learning_rate": 1, "epochs": 3, "batch_norm": True, "optimizer": "sgd", "seed": 0}
    (member,) = members_of_file([given], tmp_path / "grid.toml")
    assert member == given
    assert isinstance(member["learning_rate"], float)
    sizes = [{"hidden": value} for value in (7, "64,32", "none", ())]
    members = members_of_file(sizes, tmp_path / "grid.toml")
    assert [member["hidden"] for member in members] == [(7,), (64, 32), (), ()]
