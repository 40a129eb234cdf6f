"""The files beside the weights of a chat checkpoint: which tokenizer it has, and tables of their fields."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl_edge.export.checkpoint.config.companions import TOKENIZER
from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.models.families.common_fields import SCORES, SEARCH, token_ids
from internvl_edge.export.models.families.fields import FieldTable, Honoured, Limited, harmless, only
from internvl_edge.runtime.bundle.chat_tokenizer.settings import (
    ADDED,
    MERGES,
    ROLES_FILE,
    SENTENCEPIECE,
    SETTINGS,
    TOKENIZER_JSON,
    VOCABULARY,
)

IMAGE_TOKENS: Mapping[str, str] = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
}
"""Field of the native layout -> the token; the official layout has these without naming them."""
CONVERSATION_FILES = (VOCABULARY, MERGES, "chat_template.jinja", "chat_template.json")
"""Files of a checkpoint that its conversation alone depends on."""

_ENDLESS = 1 << 31
"""A `model_max_length` from here on means that there is none; transformers writes 10^30."""
_SENTENCEPIECE_CLASSES = ("LlamaTokenizer", "InternLM2Tokenizer", "InternLM3Tokenizer")
_CLASSES = ("Qwen2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend", *_SENTENCEPIECE_CLASSES)
_TEMPLATE_FILES = (SETTINGS, "processor_config.json", "chat_template.json")


def _length(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ValueError(f"is {value!r}, which is no number of tokens")
    return int(value) if value < _ENDLESS else None


SETTINGS_TABLE = FieldTable(
    SETTINGS,
    {
        **harmless(*TOKENIZER.fields, *IMAGE_TOKENS, "video_token", "errors", "spaces_for_interleaved_special_tokens"),
        **harmless("model_specific_special_tokens"),
        "tokenizer_class": only(
            *(f"{name}{end}" for name in _CLASSES for end in ("", "Fast")),
            finding="is a tokenizer that the runtime does not have",
        ),
        "model_max_length": Honoured("max_length", _length),
        "add_eos_token": only(False, finding="adds a token behind prompts, which the runtime does not"),
        "do_lower_case": only(False, finding="changes texts, which the runtime does not"),
        "sp_model_kwargs": only({}, finding="changes how texts are cut, which the runtime does not"),
        "split_special_tokens": only(False, finding="changes how texts are cut, which the runtime does not"),
    },
)
"""The runtime reads added tokens, tokens with a role and the switches of classes itself."""

_CHOSEN = ("repetition_penalty", "length_penalty", "early_stopping")
GENERATION = FieldTable(
    "generation_config.json",
    {
        **{
            name: replace(field, finding="would change answers, which are generated without it")
            for name, field in SCORES.items()
            if isinstance(field, Limited)
        },
        **harmless(*SEARCH, *_CHOSEN),  # callers choose them
        "eos_token_id": Honoured("stops", token_ids),
        "pad_token_id": Honoured("pad"),
        **harmless("bos_token_id", "decoder_start_token_id", "_from_model_config", "transformers_version", "use_cache"),
        **harmless("output_attentions", "output_hidden_states", "output_scores", "output_logits", "cache_config"),
        **harmless("return_dict_in_generate", "disable_compile", "compile_config"),
    },
)
"""Settings of the native layout; the official layout's own code does not read this file (CHAT.md 5)."""


def vocabulary_file(folder: Path, settings: Mapping[str, Any], native: bool) -> str | None:
    """Return the name of the file with the vocabulary, or None if a folder has none.

    The official code takes the class in Python, whose rules differ in places from those in `tokenizer.json`;
    transformers itself takes that file first.
    """
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    by_class = SENTENCEPIECE if kind in _SENTENCEPIECE_CLASSES else VOCABULARY
    if kind in ("PreTrainedTokenizer", "TokenizersBackend"):
        by_class = TOKENIZER_JSON
    first = TOKENIZER_JSON if native else by_class
    whole = [name for name in (first, TOKENIZER_JSON, VOCABULARY, SENTENCEPIECE) if (folder / name).exists()]
    return next((name for name in whole if name != VOCABULARY or (folder / MERGES).exists()), None)


def tokenizer_files(folder: Path, vocabulary: str) -> tuple[Path, ...]:
    """Return the files that the runtime's tokenizer reads, with one vocabulary among them."""
    names = (vocabulary, *([MERGES] if vocabulary == VOCABULARY else []), SETTINGS, ADDED, ROLES_FILE)
    return tuple(folder / name for name in names if (folder / name).exists())


def jinja_source(folder: Path) -> str | None:
    """Return the chat template of a folder in the native layout, or None if it has none.

    Raises:
        CheckpointError: a file that may hold it is damaged.
    """
    if (path := folder / "chat_template.jinja").exists():
        return path.read_text(encoding="utf-8")
    for name in _TEMPLATE_FILES:
        found = read_json(folder / name).get("chat_template") if (folder / name).exists() else None
        if isinstance(found, list):  # several, by name
            found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str):
            return found
    return None
