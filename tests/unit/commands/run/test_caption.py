"""`run caption`: what it asks of the model; as lines, as JSON, or piece by piece."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.run.caption import caption
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.tasks.generation.caption_pieces import CaptionPiece
from tests.unit.commands.conftest import Invoke

ASKED = ("--prompt", "'It is'", "--min-new-tokens", "2", "--max-new-tokens", "9")
SETTINGS = {"prompt": "It is", "min_new_tokens": 2, "max_new_tokens": 9}


@pytest.mark.parametrize("as_json", [False, True])
def test_every_picture_has_its_caption(invoke: Invoke, model: Mock, picture: Path, as_json: bool) -> None:
    model.caption.return_value = ["a kite"]
    done = invoke(caption, "b", picture, *ASKED, "--num-beams", "3", *(["--json"] if as_json else []))
    (pictures,), settings = model.caption.call_args
    del settings["monitor"]
    assert pictures == [PictureFile(picture)]
    assert settings == SETTINGS | {"num_beams": 3}
    if as_json:
        assert json.loads(done.stdout) == [{"image": str(picture), "caption": "a kite"}]
    else:
        assert done.stdout == f"{picture}: a kite\n"


def test_a_stream_prints_the_pieces_picture_after_picture(invoke: Invoke, model: Mock, picture: Path) -> None:
    model.stream.side_effect = lambda *_pictures, **_settings: iter([CaptionPiece(0, "a "), CaptionPiece(0, "kite")])
    done = invoke(caption, "b", picture, picture, *ASKED, "--stream")
    assert done.stdout == f"{picture}: a kite\n" * 2
    assert [call.args for call in model.stream.call_args_list] == [([PictureFile(picture)],)] * 2
    settings = model.stream.call_args.kwargs
    assert settings | {"monitor": None} == SETTINGS | {"monitor": None}


@pytest.mark.parametrize("more", [("--json",), ("--num-beams", "2")])
def test_a_stream_is_greedy_text(invoke: Invoke, model: Mock, picture: Path, more: tuple[str, ...]) -> None:
    done = invoke(caption, "b", picture, "--stream", *more)
    assert done.exit_code == 2
    assert "leave --json and --num-beams out" in done.stderr
    model.opened.assert_not_called()
