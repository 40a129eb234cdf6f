"""Commands alone: what they call is replaced by what records the call."""

import shlex
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

Replace = Callable[..., Mock]
Invoke = Callable[..., Result]


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a function that gives `answer` in the place of another, and return it with the calls it records."""

    def put(place: str, answer: object = None) -> Mock:
        called = Mock(return_value=answer)
        monkeypatch.setattr(place, called)
        return called

    return put


@pytest.fixture
def invoke() -> Invoke:
    """Run one command with arguments as a shell splits them, a path as it is; what it raises is raised."""

    def run(command: click.Command, *arguments: str | Path) -> Result:
        split = (shlex.split(each) if isinstance(each, str) else [str(each)] for each in arguments)
        return CliRunner().invoke(command, list(chain(*split)), catch_exceptions=False)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def model(replace: Replace) -> Mock:
    """The opened bundle, whose scores are for one picture and two names; `opened` records how it was opened."""
    model = Mock()
    for task in (model.similarity, model.classify):
        task.return_value = np.array([[0.25, 0.75]])
    model.opened = replace("internvl_edge.commands.options.request.open_with_progress", model)
    return model
