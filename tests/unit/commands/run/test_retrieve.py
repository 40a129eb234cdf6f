"""`run retrieve`: what it asks of the model, and how the ranking is printed."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.run.retrieve import retrieve
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from tests.unit.commands.conftest import Invoke


def test_the_best_text_comes_first(invoke: Invoke, model: Mock, picture: Path) -> None:
    done = invoke(retrieve, "b", picture, "-t", "cat", "-t", "kite", "--mode", "c")
    assert done.stdout == f"{picture}\n     0.750  kite\n     0.250  cat\n"
    (pictures, texts), settings = model.similarity.call_args
    assert ([PictureFile(picture)], ("cat", "kite"), "c") == (pictures, texts, settings["mode"])
    model.close.assert_called_once_with()


def test_json_has_every_score(invoke: Invoke, model: Mock, picture: Path) -> None:
    done = invoke(retrieve, "b", picture, "-t", "cat", "-t", "kite", "--json")
    assert json.loads(done.stdout) == [{"image": str(picture), "scores": {"kite": 0.75, "cat": 0.25}}]
    assert model.similarity.call_args.kwargs["mode"] is None


def test_a_text_that_is_given_twice_is_refused_before_the_bundle_is_opened(
    invoke: Invoke, model: Mock, picture: Path
) -> None:
    with pytest.raises(InputError, match="--text: given more than once: 'cat'"):
        invoke(retrieve, "b", picture, "-t", "cat", "-t", "cat")
    model.opened.assert_not_called()
