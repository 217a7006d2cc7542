"""The command a page names."""

import pytest

from bench.speed import command_of


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "make bench"),
        (["--batch", "1", "--threads", "2"], 'make bench BENCH="--batch 1 --threads 2"'),
        (["--batch", "1", "--only", "Zoo decoder"], 'make bench BENCH="--batch 1 --only MODEL"'),
    ],
)
def test_command_of(arguments, command):
    assert command_of(arguments) == command
