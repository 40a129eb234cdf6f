"""The files beside a vocabulary: added tokens, tokens with a role, switches."""

import json
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.chat_tokenizer.settings import TokenizerSettings
from internvl_edge.runtime.errors import BundleError


def settings(folder: Path, **files: object) -> TokenizerSettings:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return TokenizerSettings.read(folder)


def test_added_tokens_of_both_files_are_taken(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        tokenizer_config={"added_tokens_decoder": {"7": {"content": "<a>", "rstrip": True, "special": True}}},
        added_tokens={"<a>": 7, "<b>": 8},
    )
    assert {text: (token.id, token.rstrip, token.special) for text, token in found.added.items()} == {
        "<a>": (7, True, True),
        "<b>": (8, False, False),
    }


def test_roles_come_from_the_settings_then_the_map_then_the_class(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        tokenizer_config={"tokenizer_class": "LlamaTokenizerFast", "eos_token": {"content": "<e>"}, "unk_token": None},
        special_tokens_map={
            "pad_token": {"content": "<p>"},
            "eos_token": "<other>",
            "additional_special_tokens": ["x"],
        },
    )
    assert found.kind == "LlamaTokenizer"
    assert found.roles == {"bos_token": "<s>", "eos_token": "<e>", "unk_token": None, "pad_token": "<p>"}
    assert found.additional == {"x"}


def test_additional_tokens_have_another_name_in_transformers_5(tmp_path: Path) -> None:
    assert settings(tmp_path, tokenizer_config={"extra_special_tokens": ["x", {"content": "y"}]}).additional == {
        "x",
        "y",
    }
    assert settings(tmp_path, tokenizer_config={"extra_special_tokens": {"image_token": "x"}}).additional == set()


@pytest.mark.parametrize("decoder", [{"x": {"content": "a"}}, {"1": {}}, {"1": 5}])
def test_an_added_token_that_is_not_described(tmp_path: Path, decoder: object) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json: not usable \(an added token is not described"):
        settings(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
