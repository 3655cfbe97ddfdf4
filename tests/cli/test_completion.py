"""What a shell completes after ``functional-nn``."""

import pytest
from click.shell_completion import BashComplete

from functional_nn.cli import command


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        ([], "tr", {"train"}),
        (["train"], "--optim", {"--optimizer"}),
        (["train", "--optimizer"], "adagr", {"adagrad"}),
        (["train", "--model"], "ls", {"lstm"}),
        (["bench"], "--det", {"--details"}),
    ],
)
def test_a_shell_completes(words, begun, completed):
    found = BashComplete(command, {}, "functional-nn", "_FUNCTIONAL_NN_COMPLETE").get_completions(words, begun)
    assert {item.value for item in found} == completed
