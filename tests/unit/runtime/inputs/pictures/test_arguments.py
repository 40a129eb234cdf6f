"""How many pictures a caller gives, and what each is called."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import name_in, picture_count
from internvl_edge.runtime.inputs.pictures.source import PictureFile


@pytest.mark.parametrize(("images", "count"), [([], 0), (["a", "b"], 2), (("a",), 1), (np.zeros((3, 4, 4, 3)), 3)])
def test_lists_and_batches_are_counted(images: object, count: int) -> None:
    assert picture_count(images) == count


@pytest.mark.parametrize(
    ("images", "reported"),
    [
        ("a\n.png", r"pictures: a\n.png is a str; give a list"),
        (b"abc", "pictures: 3 bytes is a bytes; give a list"),
        (Path("a.png"), "pictures: a.png is a PosixPath; give a list"),
        (np.zeros((4, 4, 3)), "pictures: an array of shape [4, 4, 3]; give a list, or [B, H, W, C]"),
        (iter(["a"]), "give a list"),
    ],
)
def test_one_picture_is_no_list(images: object, reported: str) -> None:
    with pytest.raises(InputError, match=re.escape(reported)):
        picture_count(images)


@pytest.mark.parametrize(
    ("image", "alone", "among_others"),
    [
        ("a\n.png", r"a\n.png", r"a\n.png"),
        (Path("a.png"), "a.png", "a.png"),
        (PictureFile(Path("b.png")), "b.png", "b.png"),
        (b"abc", "bytes", "picture 1, bytes"),
        (Image.new("RGB", (1, 1)), "Image", "picture 1, Image"),
    ],
)
def test_what_a_picture_is_called(image: object, alone: str, among_others: str) -> None:
    assert name_in([image], 0) == alone
    assert name_in(["x.png", image], 1) == among_others
