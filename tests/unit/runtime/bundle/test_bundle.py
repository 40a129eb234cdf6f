"""A bundle opens only if every file is as it was written."""

import hashlib
import os
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle import bundle as bundle_module
from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.errors import BundleError


def refusal(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, verify=verify)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_untouched_bundle_opens(bundle_folder: Path) -> None:
    opened = Bundle.open(bundle_folder)
    assert opened.graph_file("vision") == bundle_folder / "onnx" / "fp32" / "vision.onnx"


def test_a_changed_byte_names_both_digests_and_the_remedy(bundle_folder: Path) -> None:
    path = bundle_folder / "onnx" / "fp32" / "vision.onnx"
    path.write_text("visioN")
    expected, found = (hashlib.sha256(text).hexdigest()[:12] for text in (b"vision", b"visioN"))
    message = refusal(bundle_folder)
    assert f"vision.onnx has SHA-256 {found} instead of {expected}" in message
    assert "export it again" in message


def test_without_verify_sizes_alone_are_compared(bundle_folder: Path) -> None:
    path = bundle_folder / "onnx" / "fp32" / "vision.onnx"
    path.write_text("visioN")
    Bundle.open(bundle_folder, verify=False)
    path.write_text("longer than before")
    assert "vision.onnx has 18 bytes instead of 6" in refusal(bundle_folder, verify=False)


def test_all_wrong_files_are_named_at_once(bundle_folder: Path) -> None:
    graphs = bundle_folder / "onnx" / "fp32"
    (graphs / "vision.onnx").unlink()
    (graphs / "text.onnx").write_text("tex")
    (graphs / "itm.onnx").write_text("itn")
    message = refusal(bundle_folder)
    assert "vision.onnx is missing" in message
    assert "text.onnx has 3 bytes instead of 4" in message
    assert "itm.onnx has SHA-256" in message
    assert "query.onnx" not in message


def test_a_file_that_cannot_be_read_is_a_finding(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bundle_module, "sha256_file", denied)
    assert "vision.onnx cannot be read (Permission denied)" in refusal(bundle_folder)


def test_missing_graphs_name_the_flag_that_adds_them(bundle_folder: Path) -> None:
    opened = Bundle.open(bundle_folder)
    opened.require("vision", "text")
    with pytest.raises(BundleError, match=r"no graph connector.*--graphs vision,query,text,decoder,itm,connector$"):
        opened.require("vision", "connector")
    with pytest.raises(BundleError, match="no graph connector"):
        opened.graph_file("connector")


def test_the_digest_is_streamed_over_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "_CHUNK_BYTES", 7)
    content = bytes(range(100))
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_folder_whose_name_libraries_cannot_take_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(BundleError, match="its path is no UTF-8, which ONNX Runtime does not open; rename the folder"):
        Bundle.open(folder)
