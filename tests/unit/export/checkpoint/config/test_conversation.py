"""The conversation of a chat checkpoint is read from its files, and files of another model are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.conversation import Conversation, read_conversation
from internvl_edge.export.models.config import LanguageConfig, ModelConfig, VisionConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import open_chat_tokenizer
from internvl_edge.runtime.errors import CheckpointError
from tests.unit.runtime.chat_bundles import CHATML, CONTROL, MARKUP, write_tokenizer

LAYOUTS = {"official": "internvl_chat", "native": "internvl_hf"}
CONFIGS: dict[str, dict[str, Any]] = {
    "official": {"template": "internvl2_5", "llm_config": {"eos_token_id": 258}},
    "native": {"image_token_id": 263, "text_config": {"eos_token_id": 1, "pad_token_id": 2}},
}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The ids of its tokenizer go up to 267."""
    folder = write_tokenizer(tmp_path)
    write_json(folder / "config.json", CONFIGS["official"])
    return folder


@pytest.fixture
def native(official: Path) -> Path:
    write_json(official / "config.json", CONFIGS["native"])
    write_json(official / "generation_config.json", {"eos_token_id": [260, 258], "pad_token_id": 258})
    (official / "chat_template.jinja").write_text(CHATML)
    return official


def read(folder: Path, layout: str = "official", vocabulary: int = 300) -> Conversation:
    sizes = {"hidden_size": 4, "num_heads": 1, "num_kv_heads": 1, "head_dim": 4, "num_layers": 1}
    language = LanguageConfig(family="qwen2", intermediate_size=4, vocab_size=vocabulary, **sizes)  # type: ignore[arg-type]
    config = ModelConfig(layout=LAYOUTS[layout], parts=(VisionConfig(), language))  # type: ignore[arg-type]
    return read_conversation(folder, config, FieldReader())


def refused(folder: Path, layout: str = "official", vocabulary: int = 300) -> str:
    with pytest.raises(CheckpointError) as raised:
        read(folder, layout, vocabulary)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change(path: Path, **fields: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **fields})


def test_an_official_answer_ends_at_the_templates_token_alone(official: Path) -> None:
    """Other ids in the files are those of the language model before it learned to chat (trap 6)."""
    write_json(official / "generation_config.json", {"eos_token_id": 258})
    chat = read(official).chat
    assert (chat.layout, chat.template, chat.system) == ("official", "internvl2_5", None)
    assert (chat.stop_token_ids, chat.pad_token_id, chat.context_token_id) == ((260,), 258, 263)
    assert (chat.context_token, chat.start_token, chat.end_token) == ("<IMG_CONTEXT>", "<img>", "</img>")


@pytest.mark.parametrize(("message", "system"), [("I am it.", "I am it."), ("", None), (None, None), (5, None)])
def test_a_system_message_of_the_config(official: Path, message: object, system: str | None) -> None:
    change(official / "config.json", system_message=message)
    assert read(official).chat.system == system


@pytest.mark.parametrize("template", ["alpaca", None, 5])
def test_an_unknown_template(official: Path, template: object) -> None:
    change(official / "config.json", template=template)
    assert refused(official).startswith(
        f"config.json: template is {template!r}, which is unknown; known are internvl_zh, Hermes-2, internlm2-chat"
    )


@pytest.mark.parametrize(
    ("generation", "stops", "pad"),
    [
        ({"eos_token_id": [260, 258], "pad_token_id": 258}, (260, 258), 258),
        ({"eos_token_id": 260}, (260,), 258),  # the tokenizer's
        ({"eos_token_id": "<|im_end|>", "pad_token_id": 5}, (260,), 5),
        ({}, (260,), 258),
    ],
)
def test_a_native_answer_ends_where_its_generation_config_says(
    native: Path, generation: dict[str, Any], stops: tuple[int, ...], pad: int
) -> None:
    write_json(native / "generation_config.json", generation)
    chat = read(native, "native").chat
    assert (chat.layout, chat.template, chat.system) == ("native", "", None)
    assert (chat.stop_token_ids, chat.pad_token_id, chat.context_token_id) == (stops, pad, 263)


@pytest.mark.parametrize("group", ["extra_special_tokens", "model_specific_special_tokens"])
def test_a_native_config_names_its_tokens(native: Path, group: str) -> None:
    change(native / "tokenizer_config.json", start_image_token="<box>", **{group: {"end_image_token": "</box>"}})
    chat = read(native, "native").chat
    assert (chat.context_token, chat.start_token, chat.end_token) == ("<IMG_CONTEXT>", "<box>", "</box>")


def test_a_native_checkpoint_without_a_tokenizer_takes_ids(native: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"):
        (native / name).unlink()
    write_json(native / "generation_config.json", {"eos_token_id": 260})
    found = read(native, "native")
    assert (found.chat.stop_token_ids, found.chat.pad_token_id, found.files, found.template) == ((260,), 2, (), None)
    assert "has no tokenizer" in caplog.text
    write_json(native / "generation_config.json", {})
    assert read(native, "native").chat.stop_token_ids == (1,)
    change(native / "config.json", text_config={})
    assert "generation_config.json: names no known eos_token_id" in refused(native, "native")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files_of_a_tokenizer(official: Path, name: str) -> None:
    (official / name).unlink()
    assert refused(official).endswith(
        "has no tokenizer (tokenizer.json, vocab.json with merges.txt, or tokenizer.model); copy its files from the"
        " original checkpoint, or leave the language model out with --graphs vision"
    )


def test_missing_settings_of_a_tokenizer(official: Path) -> None:
    (official / "tokenizer_config.json").unlink()
    said = refused(official)
    assert "tokenizer_config.json: is missing or names no tokenizer_class; copy it" in said
    assert "tokenizer: has no token <IMG_CONTEXT>, <img>, </img>, <|im_end|>;" in said


def test_a_missing_or_broken_chat_template(native: Path) -> None:
    (native / "chat_template.jinja").write_text("{% if %}")
    assert "chat_template.jinja: chat template: Expected an expression" in refused(native, "native")
    (native / "chat_template.jinja").unlink()
    assert "chat_template.jinja: is missing; copy it" in refused(native, "native")


def test_the_template_is_copied_as_a_file_of_its_own(native: Path, tmp_path: Path) -> None:
    (native / "chat_template.jinja").unlink()
    change(native / "tokenizer_config.json", chat_template=CHATML)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    read(native, "native").copy_to(bundle)
    assert (bundle / "tokenizer" / "chat_template.jinja").read_text() == CHATML


def test_ids_beyond_the_logits(official: Path) -> None:
    """More logits than ids are usual (trap 18)."""
    assert "tokenizer: has ids up to 267, and the model has rows for 267; take the tokenizer's files" in refused(
        official, vocabulary=267
    )
    assert read(official, vocabulary=268)


def test_ids_that_the_tokenizer_lacks(native: Path) -> None:
    """Some are in a gap of the vocabulary, some beyond it (trap 18)."""
    change(native / "generation_config.json", eos_token_id=[260, 299, 400])
    assert "tokenizer: lacks ids that the files name: 299, 400; take the tokenizer's" in refused(native, "native")


def test_the_token_of_videos_may_be_beyond_the_logits(native: Path) -> None:
    change(native / "tokenizer_config.json", added_tokens_decoder=_added("<video>"))
    assert read(native, "native", 268)
    change(native / "tokenizer_config.json", added_tokens_decoder=_added("<other>"))
    assert "has ids up to 268" in refused(native, "native", 268)


def _added(last: str) -> dict[str, Any]:
    return {
        str(258 + index): {"content": text, "special": True} for index, text in enumerate((*CONTROL, *MARKUP, last))
    }


def test_a_context_token_of_another_vocabulary(native: Path) -> None:
    change(native / "config.json", image_token_id=262)
    assert "config.json: image_token_id is 262, and <IMG_CONTEXT> of the tokenizer is 263" in refused(native, "native")
    change(native / "config.json", image_token_id=None)
    assert "config.json: image_token_id is None, which is no token id" in refused(native, "native")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"tokenizer_class": "BertTokenizer"},
            "tokenizer_class 'BertTokenizer' is a tokenizer that the runtime does not",
        ),
        ({"add_eos_token": True}, "add_eos_token True adds a token behind prompts"),
        ({"split_special_tokens": True}, "split_special_tokens True changes how texts are cut"),
        ({"model_max_length": -1}, "model_max_length is -1, which is no number of tokens"),
        ({"normalizer": "nfkc"}, "--accept-config tokenizer_config.normalizer"),
    ],
)
def test_settings_that_the_runtime_does_not_follow(official: Path, fields: dict[str, Any], said: str) -> None:
    change(official / "tokenizer_config.json", **fields)
    assert said in refused(official)


def test_all_findings_are_in_one_line(official: Path) -> None:
    change(official / "tokenizer_config.json", add_eos_token=True)
    change(official / "config.json", template="alpaca")
    said = refused(official)
    assert "add_eos_token True" in said
    assert "template is 'alpaca'" in said


def test_scores_that_a_native_generation_config_changes(native: Path) -> None:
    change(native / "generation_config.json", suppress_tokens=[5], temperature=0.6, repetition_penalty=1.05)
    assert refused(native, "native").startswith("generation_config.json: suppress_tokens [5] would change answers")


@pytest.mark.parametrize(("length", "expected"), [(4096, 4096), (1e30, None), (None, None), (8192.0, 8192)])
def test_the_longest_prompt(official: Path, length: object, expected: int | None) -> None:
    change(official / "tokenizer_config.json", model_max_length=length)
    assert read(official).max_length == expected


def test_a_damaged_vocabulary(official: Path) -> None:
    (official / "vocab.json").write_text("{")
    assert "vocab.json: not usable" in refused(official)


def test_one_vocabulary_is_copied(native: Path, tmp_path: Path) -> None:
    """The official code reads the files of the class in Python, transformers `tokenizer.json` (CHAT.md 6)."""
    from tokenizers import Tokenizer

    assert [path.name for path in read(native, "native").files] == ["vocab.json", "merges.txt", "tokenizer_config.json"]
    original = open_chat_tokenizer(native)
    whole = Tokenizer.from_str(_byte_level(native))
    whole.save(str(native / "tokenizer.json"))
    assert [path.name for path in read(native, "native").files] == ["tokenizer.json", "tokenizer_config.json"]
    write_json(native / "config.json", CONFIGS["official"])
    found = read(native)
    assert [path.name for path in found.files] == ["vocab.json", "merges.txt", "tokenizer_config.json"]
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    found.copy_to(bundle)
    assert open_chat_tokenizer(bundle / "tokenizer").encode("ab é") == original.encode("ab é")


def _byte_level(folder: Path) -> str:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    kind = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["a b", "Ġ ab"]}
    parts = {"pre_tokenizer": kind, "decoder": kind, "normalizer": None, "post_processor": None}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts})
