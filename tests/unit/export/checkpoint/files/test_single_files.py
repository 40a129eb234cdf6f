"""What stands in place of a file that should be read: no JSON, a Git LFS pointer, nothing at all, a name of the Hub."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from internvl_edge.export.checkpoint.files.hub import from_hub
from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.checkpoint.files.pointers import refuse_pointer
from internvl_edge.runtime.errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def test_a_json_object_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for start in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(start + '{"größe": 448}'.encode())
        assert read_json(file) == {"größe": 448}


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_what_is_no_json_object(tmp_path: Path, content: bytes, finding: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"config.json: {finding}.*; download it again"):
        read_json(file)


def test_json_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        read_json(tmp_path / "config.json")


def test_a_pointer_in_place_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"model.safetensors: is a Git LFS pointer, .*; run git lfs pull"):
        refuse_pointer(file)
    with pytest.raises(CheckpointError, match=r"cannot be read .No such file or directory.; check the path"):
        refuse_pointer(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"version https://git-lf", b"\x00" + POINTER, b"version https://git-LFS"])
def test_what_is_no_pointer(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    refuse_pointer(file)


@pytest.mark.parametrize("name", ["model", "a/b/c", "./model", "../model", "/model", ".a/b"])
def test_what_is_no_name_of_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file; give a checkpoint folder, a weight file or"):
        from_hub(name, None)


class Hub:
    """The library in so far as it is called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, Any]] = []

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        if self.error is not None:
            raise self.error
        return "/cache/snapshot"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    library, errors, found = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors"), Hub()
    library.snapshot_download = found.snapshot_download  # type: ignore[attr-defined]
    for name in ("HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError"):
        setattr(errors, name, type(name, (Exception,), {}))
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return found


def test_weights_configs_and_tokenizers_come_from_the_hub(hub: Hub) -> None:
    assert from_hub("OpenGVLab/InternVL-14B", "v1") == Path("/cache/snapshot")
    wanted = {
        "revision": "v1",
        "allow_patterns": ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "merges.txt"],
    }
    assert hub.asked == [("OpenGVLab/InternVL-14B", wanted)]


def test_what_the_hub_does_not_give(hub: Hub) -> None:
    hub.error = OSError("no network\nand more")
    with pytest.raises(CheckpointError) as caught:
        from_hub("a/b", None)
    assert str(caught.value) == "a/b: the Hub does not give it (no network); check the name and the network"


def test_the_library_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="huggingface_hub is not installed; pip install huggingface_hub"):
        from_hub("a/b", None)
