"""Which of the files beside the weights hold the vocabulary and the chat template."""

import json
from pathlib import Path

import pytest

from internvl_edge.export.checkpoint.config.chat_files import jinja_source, tokenizer_files, vocabulary_file

BYTES = ("vocab.json", "merges.txt")


@pytest.mark.parametrize(
    ("kind", "native", "present", "expected"),
    [
        ("Qwen2Tokenizer", False, (*BYTES, "tokenizer.json"), "vocab.json"),
        ("Qwen2TokenizerFast", True, (*BYTES, "tokenizer.json"), "tokenizer.json"),
        ("Qwen2Tokenizer", False, ("tokenizer.json",), "tokenizer.json"),
        ("Qwen2Tokenizer", True, BYTES, "vocab.json"),
        ("Qwen2Tokenizer", False, ("vocab.json",), None),
        ("LlamaTokenizer", False, ("tokenizer.model", "tokenizer.json"), "tokenizer.model"),
        ("InternLM2Tokenizer", False, ("tokenizer.model",), "tokenizer.model"),
        ("PreTrainedTokenizerFast", False, (*BYTES, "tokenizer.json"), "tokenizer.json"),
        ("", False, (), None),
    ],
)
def test_the_vocabulary_is_the_one_that_the_layouts_code_reads(
    tmp_path: Path, kind: str, native: bool, present: tuple[str, ...], expected: str | None
) -> None:
    for name in (*present, "tokenizer_config.json"):
        (tmp_path / name).touch()
    assert vocabulary_file(tmp_path, {"tokenizer_class": kind}, native) == expected
    if expected is not None:
        names = [path.name for path in tokenizer_files(tmp_path, expected)]
        assert names == [*(BYTES if expected == "vocab.json" else [expected]), "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "the template"),
        (
            "tokenizer_config.json",
            [{"name": "t", "template": "other"}, {"name": "default", "template": "the template"}],
        ),
        ("processor_config.json", {"t": "other", "default": "the template"}),
        ("chat_template.json", "the template"),
    ],
)
def test_files_that_may_hold_the_chat_template(tmp_path: Path, name: str, content: object) -> None:
    assert jinja_source(tmp_path) is None
    (tmp_path / "chat_template.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps({"chat_template": content}))
    assert jinja_source(tmp_path) == "the template"
    (tmp_path / "chat_template.jinja").write_text("its own file comes first")
    assert jinja_source(tmp_path) == "its own file comes first"
