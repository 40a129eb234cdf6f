"""What stands beside weights and config is held against what the runtime does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint import open_checkpoint, opening
from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.runtime.errors import CheckpointError


@pytest.fixture
def folder(golden_a: Path, tmp_path: Path) -> Path:
    """A copy of the InternVL-14B style checkpoint."""
    return shutil.copytree(golden_a / "checkpoint", tmp_path / "c")


def _change(file: Path, **fields: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **fields}))


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"add_bos_token": False}, "add_bos_token False leaves out the first token"),
        ({"add_prefix_space": False}, "add_prefix_space False leaves out the leading space"),
        ({"bos_token": {"content": "<bos>"}}, "is not <s>"),
        ({"eos_token": "<end>"}, "eos_token '<end>' is not </s>"),
        ({"do_lower_case": True}, "do_lower_case True changes texts"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs {'enable_sampling': True} changes"),
        ({"truncation_side": "left"}, "truncation_side 'left' cuts the start"),
        ({"tokenizer_class": "BertTokenizer"}, "tokenizer_class 'BertTokenizer' is no LLaMA tokenizer"),
        ({"normalizer": "nfkc"}, "--accept-config tokenizer_config.normalizer"),
        ({"clean_up_tokenization_spaces": True}, "--accept-config tokenizer_config.clean_up_tokenization_spaces"),
    ],
)
def test_a_tokenizer_that_the_runtime_is_not_is_refused(folder: Path, fields: dict[str, Any], finding: str) -> None:
    _change(folder / "tokenizer_config.json", **fields)
    _refused(folder, finding)


ADDED: list[tuple[str, dict[str, Any], str]] = [
    ("tokenizer_config.json", {"added_tokens_decoder": {"320": {"content": "<dog>"}}}, "added_tokens_decoder"),
    ("tokenizer_config.json", {"additional_special_tokens": ["<dog>"]}, "additional_special_tokens"),
    ("tokenizer_config.json", {"additional_special_tokens": [{"content": "<dog>"}]}, "additional_special_tokens"),
    ("added_tokens.json", {"<dog>": 320}, "tokens"),
]


@pytest.mark.parametrize(("file", "fields", "name"), ADDED)
def test_tokens_beside_the_vocabulary_are_told(folder: Path, file: str, fields: dict[str, Any], name: str) -> None:
    _change(folder / file, **fields)
    _refused(folder, f"{file}: {name} adds '<dog>' to the vocabulary")
    accepted = f"{file.removesuffix('.json')}.{name}"
    assert open_checkpoint(folder, accept=[accepted]).accepted_fields == (accepted,)


def test_the_tokens_of_every_llama_and_the_padding_are_no_finding(folder: Path) -> None:
    texts = ("<unk>", "<s>", "</s>", "<pad>")
    decoder = {str(index): {"content": text, "special": True} for index, text in enumerate(texts)}
    _change(folder / "tokenizer_config.json", added_tokens_decoder=decoder, pad_token="<pad>")
    _change(folder / "added_tokens.json", **{"[PAD]": 320, "<pad>": 321})
    assert open_checkpoint(folder).accepted_fields == ()


def test_a_tokenizer_is_read_as_the_runtime_reads_texts(folder: Path) -> None:
    fields = {"add_eos_token": True, "padding_side": "left", "pad_token": "[PAD]", "model_max_length": 80}
    _change(folder / "tokenizer_config.json", legacy=False, bos_token="<s>", **fields)
    assert open_checkpoint(folder).accepted_fields == ()


@pytest.mark.parametrize("ends", [7, [7], [2, 7], "7"])
def test_another_eos_of_the_generation_is_told_and_may_be_accepted(folder: Path, ends: Any) -> None:
    _change(folder / "generation_config.json", eos_token_id=ends)
    _refused(folder, "but captions stop at 2")
    accepted = open_checkpoint(folder, accept=["generation_config.eos_token_id"])
    assert accepted.accepted_fields == ("generation_config.eos_token_id",)


@pytest.mark.parametrize("ends", [2, [2], "2"])
def test_the_same_eos_in_any_form_is_no_finding(folder: Path, ends: Any) -> None:
    _change(folder / "generation_config.json", eos_token_id=ends, temperature=0.6, do_sample=True, num_beams=5)
    assert open_checkpoint(folder).config == open_checkpoint(folder).config


def test_scores_that_captions_do_not_follow_are_told(folder: Path) -> None:
    _change(folder / "generation_config.json", repetition_penalty=1.3, no_repeat_ngram_size=3)
    _refused(folder, "repetition_penalty 1.3 would change captions")
    _refused(folder, "no_repeat_ngram_size 3 would change captions")


def test_an_id_given_as_a_tokens_text_is_that_tokens(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["qllama_config"]["eos_token_id"] = "</s>"
    content["qllama_config"]["bos_token_id"] = "<s>"
    (folder / "config.json").write_text(json.dumps(content))
    qllama = open_checkpoint(folder).config.need(QllamaConfig)
    assert qllama is not None
    assert (qllama.bos_token_id, qllama.eos_token_id) == (1, 2)


def test_files_of_a_chat_checkpoint_belong_to_its_language_model(golden_b: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden_b / "checkpoint_chat", tmp_path / "c")
    _change(folder / "generation_config.json", eos_token_id=[5, 6], repetition_penalty=1.3)
    _change(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer", add_bos_token=False)
    assert open_checkpoint(folder).config.layout == "internvl_chat"


def test_a_text_encoder_without_a_config_has_its_tokenizer_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_checkpoint(folder).config
    monkeypatch.setattr(opening, "config_from_shapes", lambda *of_released_models: config)
    (folder / "config.json").unlink()
    assert open_checkpoint(folder).config == config
    _change(folder / "tokenizer_config.json", add_bos_token=False)
    _refused(folder, "add_bos_token False leaves out the first token")


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    config = folder / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert open_checkpoint(folder).config.layout == "internvl"


def _refused(folder: Path, finding: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
