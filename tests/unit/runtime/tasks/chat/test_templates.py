"""The official templates: two turns of each, as recorded beside the templates of the reference."""

import pytest

from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.tasks.chat.templates import Piece, find_template, templates

ZH = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
V25 = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
GPT = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2025-08-06\n\nReasoning: low\n\n# Valid channels: final. Channel must be included for every message."
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and"
    " polite answers to the user's questions."
)
_CHATML = (
    "<|im_start|>system\n{s}<|im_end|>{n}<|im_start|>user\nQ1<|im_end|>{n}<|im_start|>assistant\nA1<|im_end|>{n}"
    "<|im_start|>user\nQ2<|im_end|>{n}<|im_start|>assistant\n"
)
TWO_TURNS = {
    "internvl_zh": " <human>: Q1 <bot>: A1</s><human>: Q2 <bot>:",
    "Hermes-2": _CHATML.format(s=ZH, n=""),
    "internlm2-chat": _CHATML.format(s=ZH, n=""),
    "internvl2_5": _CHATML.format(s=V25, n="\n"),
    "phi3-chat": (
        f"<|system|>\n{ZH}<|end|><|user|>\nQ1<|end|><|assistant|>\nA1<|end|><|user|>\nQ2<|end|><|assistant|>\n"
    ),
    "internvl3_5_gpt_oss": (
        f"<|start|>system<|message|>{GPT}<|end|><|start|>user<|message|>Q1<|end|><|start|>assistantA1<|end|>"
        "<|start|>user<|message|>Q2<|end|><|start|>assistant"
    ),
    "vicuna_v1": f"{VICUNA} USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:",
}
STOPS = {
    "internvl_zh": "</s>",
    "Hermes-2": "<|im_end|>",
    "internlm2-chat": "<|im_end|>",
    "internvl2_5": "<|im_end|>",
    "phi3-chat": "<|end|>",
    "internvl3_5_gpt_oss": "<|end|>",
    "vicuna_v1": "</s>",
}


def test_every_template_is_tested() -> None:
    assert templates().keys() == TWO_TURNS.keys() == STOPS.keys()


@pytest.mark.parametrize("name", TWO_TURNS)
def test_two_turns(name: str) -> None:
    """Which of them have a newline behind the end of a message differs (trap 5)."""
    template = find_template(name)
    assert template.text(None, [[Piece("Q1")], [Piece("A1")], [Piece("Q2")]]) == TWO_TURNS[name]
    assert template.stop == STOPS[name]


@pytest.mark.parametrize(
    ("name", "open_answer"),
    [
        ("internvl2_5", "<|im_start|>assistant\n<|im_start|>user\n"),
        ("internvl_zh", " <bot>:<human>: "),
        ("vicuna_v1", " ASSISTANT:USER: "),
        ("internvl3_5_gpt_oss", "<|start|>assistant<|start|>user<|message|>"),
    ],
)
def test_an_empty_answer_has_no_end(name: str, open_answer: str) -> None:
    """As the open answer at the end (trap 15)."""
    text = find_template(name).text(None, [[Piece("Q1")], [Piece("")], [Piece("Q2")]])
    assert f"Q1{find_template(name).seps[0].rstrip(' ')}{open_answer}Q2" in text


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("internvl2_5", "<|im_start|>system\nS {x}<|im_end|>\n<|im_start|>user\n"),
        ("internvl_zh", "S {x} <human>: "),
        ("vicuna_v1", "S {x} USER: "),
        ("internvl3_5_gpt_oss", "<|start|>system<|message|>S {x}<|end|><|start|>user<|message|>"),
    ],
)
def test_a_system_message_of_ones_own(name: str, start: str) -> None:
    assert find_template(name).text([Piece("S {x}")], [[Piece("Q")]]).startswith(f"{start}Q")


def test_an_empty_system_message_is_one() -> None:
    text = find_template("internvl2_5").text([Piece("")], [[Piece("Q")]])
    assert text.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ")


def test_an_unknown_template_is_refused_with_those_known() -> None:
    with pytest.raises(
        BundleError, match=r"template 'vicuna' is unknown; known are internvl_zh, Hermes-2, .*vicuna_v1$"
    ):
        find_template("vicuna")
