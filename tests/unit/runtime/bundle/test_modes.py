"""Which picture features a bundle can give, and what is said of those that it cannot."""

import re
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.bundle.modes import default_mode, mode_of, modes_of
from internvl_edge.runtime.errors import BundleError, InputError
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


@pytest.mark.parametrize(
    ("roles", "modes", "default"),
    [
        ((), (), "c"),
        ((TEXT_ENCODER,), (), "c"),
        ((QUERY_ENCODER,), (), "c"),
        ((IMAGE_ENCODER, TEXT_ENCODER), ("c",), "c"),
        ((IMAGE_ENCODER, QUERY_ENCODER), ("c", "g"), "g"),
    ],
)
def test_modes_follow_from_the_graphs(roles: tuple[str, ...], modes: tuple[str, ...], default: str) -> None:
    assert modes_of(roles) == modes
    assert default_mode(roles) == default


@pytest.fixture
def bundle(tmp_path: Path, request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "b", request.param, MODEL, None))


@pytest.mark.parametrize(
    ("bundle", "asked", "given"),
    [
        (("vision", "query"), None, "g"),
        (("vision", "query"), "c", "c"),
        (("vision", "text"), None, "c"),
        (("vision", "text"), "c", "c"),
    ],
    indirect=["bundle"],
)
def test_a_mode_that_is_asked_for_or_the_best_there_is(bundle: Bundle, asked: str | None, given: str) -> None:
    assert mode_of(bundle, asked) == given


@pytest.mark.parametrize(
    ("bundle", "asked", "error", "reported"),
    [
        (("vision", "query"), "x", InputError, "mode 'x': unknown; choose c (InternVL-C) or g (InternVL-G)"),
        (("vision", "text"), "g", BundleError, "has no graph query (it has vision, text), which mode g"),
        (("vision", "text"), "g", BundleError, "or export it with --graphs vision,text,query"),
        (("text",), "g", BundleError, "vision"),
        (("text",), None, BundleError, "vision"),
    ],
    indirect=["bundle"],
)
def test_what_is_lacking_is_named(bundle: Bundle, asked: str | None, error: type[Exception], reported: str) -> None:
    with pytest.raises(error, match=re.escape(reported)):
        mode_of(bundle, asked)
