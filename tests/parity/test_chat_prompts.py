"""Every recorded text, decoded answer and prompt of the reference chat models, to the character and the id."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.checkpoint.config.conversation import read_conversation
from internvl_edge.export.models.config import LanguageConfig, ModelConfig, VisionConfig
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.tasks.chat.prompts import chat_prompt, request_prompt
from tests.golden_chat import CASES, GOLDEN_CHAT
from tests.unit.runtime.chat_bundles import chat_bundle

VOCABULARIES = {"c1": 531, "c2": 641, "c3": 603, "c4": 549, "c5": 553, "c6": 607}
"""Rows of each case's embedding table."""
FRAMES = "".join(f"Frame{number}: <image>\n" for number in (1, 2, 3))
UNCHECKED = {"no tag but a picture", "too few <image> tags", "\n"}
"""Recorded questions that the reference answers and a request may not ask, or asks otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A recorded prompt."""

    question: str
    tiles: list[int]
    history: list[tuple[str, str]] | None
    system: str | None
    text: str
    ids: list[int]


def rows(case: str) -> Iterator[Row]:
    """Yield the recorded prompts of a case, those of a batch one by one and without padding."""
    for record in _json(case, "prompts.json")["prompts"]:
        batch = "prompts" in record
        texts = record["prompts"] if batch else [record["prompt"]]
        ids, tiles = record["input_ids"], record.get("num_patches_list", [1] * record.get("frames", 0))
        if batch:
            masks = record["attention_mask"]
            ids = [
                [key for key, kept in zip(row, mask, strict=True) if kept] for row, mask in zip(ids, masks, strict=True)
            ]
        for index, text in enumerate(texts):
            asked = _native(record, index, batch) if "messages" in record else _official(record, index, batch)
            if asked is not None:
                own = {"text": text, "ids": ids[index] if batch else ids}
                yield Row(**asked, **own, tiles=tiles[index : index + 1] if batch else tiles)


def _official(record: dict[str, Any], index: int, batch: bool) -> dict[str, Any]:
    history = record.get("history")
    turns = [tuple(turn) for turn in history] if history is not None else None
    question = record["questions"][index] if batch else record["question"]
    return {"question": question, "history": turns, "system": None}


def _native(record: dict[str, Any], index: int, batch: bool) -> dict[str, Any] | None:
    """Return the question that stands for recorded messages; None for those without an open answer."""
    messages = record["messages"][index] if batch else record["messages"]
    texts = [_written(message["content"]) for message in messages]
    system = texts.pop(0) if messages[0]["role"] == "system" else None
    if messages[-1]["role"] != "user":
        return None
    history = list(zip(texts[:-1:2], texts[1::2], strict=True)) or None
    return {"question": texts[-1], "history": history, "system": system}


def _written(content: Any) -> str:
    """Return the items of a message as the text that stands for them."""
    if isinstance(content, str):
        return content
    return "".join({"image": "<image>\n", "video": FRAMES}.get(item["type"], item.get("text", "")) for item in content)


def _json(case: str, name: str) -> Any:
    return json.loads((GOLDEN_CHAT / case / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> InternVL:
    """A bundle with the conversation of a recorded checkpoint, and without its graphs."""
    folder = GOLDEN_CHAT / case / "checkpoint"
    native = "text_config" in _json(case, "checkpoint/config.json")
    sizes = {"hidden_size": 4, "num_heads": 1, "num_kv_heads": 1, "head_dim": 4, "num_layers": 1}
    language = LanguageConfig(family="", intermediate_size=4, vocab_size=VOCABULARIES[case], **sizes)  # type: ignore[arg-type]
    config = ModelConfig(layout="internvl_hf" if native else "internvl_chat", parts=(VisionConfig(), language))
    conversation = read_conversation(folder, config, FieldReader())
    bundle = tmp_path_factory.mktemp(case)
    conversation.copy_to(bundle)
    return InternVL.open(chat_bundle(bundle, 9, **asdict(conversation.chat)))


def test_texts_have_the_recorded_ids(case: str, model: InternVL) -> None:
    tokenizer = model.chat_tokenizer
    for row in _json(case, "prompts.json")["tokenizer"]:
        assert tokenizer.encode(row["text"]) == row["ids"], row
        assert tokenizer.encode(row["text"], whole=False) == row.get("ids_without_special", row["ids"]), row


def test_ids_have_the_recorded_texts(case: str, model: InternVL) -> None:
    for row in _json(case, "prompts.json")["decode"]:
        assert model.chat_tokenizer.decode(row["ids"]) == row["text"], row
        assert model.chat_tokenizer.decode(row["ids"], skip_special=False) == row["raw"], row


def test_prompts_are_the_recorded_ones(case: str, model: InternVL) -> None:
    found = list(rows(case))
    assert len(found) >= (9 if case in ("c4", "c5") else 15)
    for row in found:
        prompt = chat_prompt(model, row.question, row.tiles, row.history, row.system)
        assert prompt.text == row.text
        assert prompt.input_ids == row.ids


def test_requests_differ_where_they_are_checked_alone(case: str, model: InternVL) -> None:
    for row in rows(case):
        if row.question in UNCHECKED:
            continue
        prompt = request_prompt(model, row.question, row.tiles, row.history, row.system)
        assert prompt.text == row.text
        control = model.chat_tokenizer.holds_control_token(row.question)
        assert (prompt.input_ids == row.ids) is not control


def test_no_text_of_a_request_gives_a_control_token(case: str, model: InternVL) -> None:
    """With every token of the tokenizer in every text, the prompt has the tokens of one without (golden README)."""
    tokenizer = model.chat_tokenizer
    texts = [
        tokenizer.decode([key], skip_special=False).strip() for key in range(tokenizer.size) if tokenizer.knows(key)
    ]
    control = {tokenizer.token_id(text) for text in texts if tokenizer.holds_control_token(text)}
    evil = "".join(f"{text} x" for text in texts if tokenizer.holds_control_token(text)) + "[UNUSED_TOKEN_145]"

    def found(text: str) -> list[int]:
        prompt = request_prompt(model, f"<image>{text}", [2], [(text, text)], text)
        return [key for key in prompt.input_ids if key in control]

    assert len(found("y")) > 20
    assert found(evil) == found("y")


def test_requests_that_the_reference_answers_wrongly(case: str, model: InternVL) -> None:
    """It leaves a picture out, or fails when it counts tokens (golden README)."""
    found = {row.question: row for row in rows(case)}
    if case in ("c4", "c5"):
        assert UNCHECKED.isdisjoint(found)
        return
    few, empty, first = (found[name] for name in ("too few <image> tags", "\n", "no tag but a picture"))
    with pytest.raises(InputError, match="pictures: 2 for 1 <image> marks"):
        request_prompt(model, few.question, few.tiles)
    with pytest.raises(InputError, match="question: is empty"):
        request_prompt(model, empty.question)
    prompt = request_prompt(model, first.question, first.tiles, first.history)
    assert prompt.input_ids.count(model.info.chat.context_token_id) == 9  # type: ignore[union-attr]
    assert first.ids.count(model.info.chat.context_token_id) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("case", ["c2", "c4", "c6"], indirect=True)
def test_long_prompts(case: str, model: InternVL) -> None:
    for name, row in _json(case, "long_prompt.json").items():
        if name in ("long", "cross"):
            question = f"<image>\n{row['question']}" if case == "c4" else row["question"]
            assert chat_prompt(model, question, [3]).input_ids == row["input_ids"]


def test_the_conversation_is_the_recorded_one(case: str, model: InternVL) -> None:
    about, chat = _json(case, "golden.json"), model.info.chat
    assert chat is not None
    assert chat.context_token_id == about["img_context_token_id"]
    runs = [run for run in about["runs"].values() if "eos_token_id" in run]
    assert {run["eos_token_id"] for run in runs} == set(chat.stop_token_ids)
    assert {run["pad_token_id"] for run in runs if "pad_token_id" in run} <= {chat.pad_token_id}


def test_the_other_layouts_prompt_differs(tmp_path: Path) -> None:
    """c5 is the same model in both layouts; the official one has a system text (trap 22)."""
    assert next(rows("c5")).text.startswith("<|im_start|>user\n")
    folder = GOLDEN_CHAT / "c5" / "checkpoint_official"
    sizes = {"hidden_size": 4, "num_heads": 1, "num_kv_heads": 1, "head_dim": 4, "num_layers": 1}
    language = LanguageConfig(family="", intermediate_size=4, vocab_size=553, **sizes)  # type: ignore[arg-type]
    config = ModelConfig(layout="internvl_chat", parts=(VisionConfig(), language))
    conversation = read_conversation(folder, config, FieldReader())
    conversation.copy_to(tmp_path)
    model = InternVL.open(chat_bundle(tmp_path, 9, **asdict(conversation.chat)))
    assert chat_prompt(model, "Q").text.startswith("<|im_start|>system\n你是书生·万象")
