"""`run connect`: the tiling that it asks for, and where it prints when the file is stdout."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.run.connect import connect
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.source import PictureFile
from internvl_edge.runtime.tasks.connect import TilingOptions
from tests.unit.commands.conftest import Invoke, Replace

SAVE = "internvl_edge.runtime.tasks.connect.save_vit_embeds"


@pytest.mark.parametrize(
    ("given", "tiling"),
    [
        ((), TilingOptions()),
        (("--min-tiles", "2", "--max-tiles", "4", "--thumbnail"), TilingOptions(smallest=2, largest=4, thumbnail=True)),
        (("--no-thumbnail",), TilingOptions(thumbnail=False)),
    ],
)
def test_the_tiling_and_the_file_reach_the_task(
    invoke: Invoke, replace: Replace, model: Mock, picture: Path, given: tuple[str, ...], tiling: TilingOptions
) -> None:
    save = replace(SAVE, "v.npz: 1 picture")
    done = invoke(connect, "b", picture, "-o", "v.npz", *given)
    assert save.call_args.args[:-1] == (model, [PictureFile(picture)], tiling, Path("v.npz"))
    assert (done.stdout, done.stderr) == ("v.npz: 1 picture\n", "")


def test_where_stdout_is_the_file_the_line_goes_to_stderr(
    invoke: Invoke, replace: Replace, model: Mock, picture: Path
) -> None:
    replace(SAVE, "1 picture")
    done = invoke(connect, "b", picture, "-o", "-")
    assert (done.stdout, done.stderr) == ("", "1 picture\n")


def test_a_picture_is_not_replaced(invoke: Invoke, model: Mock, picture: Path) -> None:
    with pytest.raises(InputError, match="would replace what is read"):
        invoke(connect, "b", picture, "-o", picture)
    model.opened.assert_not_called()
