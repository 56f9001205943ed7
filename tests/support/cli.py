"""A command, called in the process of the test."""

import pathlib

import pytest

from harness import cli

ROOT = pathlib.Path(__file__).parents[2]


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err
