"""The bundle that the tests of this room share."""

from pathlib import Path

import pytest

from tests.unit.runtime.tiny_bundle import MODEL, write_bundle


@pytest.fixture
def bundle_folder(tmp_path: Path, golden_a: Path) -> Path:
    """A bundle with every graph of InternVL-14B."""
    tokenizer = golden_a / "checkpoint" / "tokenizer.model"
    return write_bundle(tmp_path / "bundle", ("vision", "query", "text", "decoder", "itm"), MODEL, tokenizer)
