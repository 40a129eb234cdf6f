"""Check the settings of tokenizer and generation in a checkpoint against what the runtime does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.models.config import QllamaConfig
from internvl_edge.export.models.families.common_fields import SCORES, SEARCH, token_ids
from internvl_edge.export.models.families.fields import (
    FieldReader,
    FieldTable,
    Honoured,
    Limited,
    harmless,
    listed,
    only,
)

GENERATION = FieldTable(
    "generation_config.json",
    {
        **SEARCH,
        **SCORES,
        "eos_token_id": Honoured("eos", token_ids),
        **harmless("bos_token_id", "pad_token_id", "decoder_start_token_id", "_from_model_config"),
        **harmless("transformers_version", "use_cache", "output_attentions", "output_hidden_states", "output_scores"),
        **harmless("output_logits", "return_dict_in_generate", "cache_config", "disable_compile", "compile_config"),
    },
)
"""Captions take their ids from ``qllama_config``, as the reference does; another eos here is a finding."""


def _token(text: str) -> Limited:
    """Return the field of a special token; only `text`, which the runtime's tokenizer has built in, is supported."""

    def supported(value: Any) -> bool:
        return _text(value) == text

    return Limited(supported, f"is not {text}, which the runtime puts around texts")


TOKENIZER = FieldTable(
    "tokenizer_config.json",
    {
        "add_bos_token": only(True, finding="leaves out the first token, which the runtime adds"),
        "add_prefix_space": only(True, finding="leaves out the leading space, which the runtime adds"),
        "add_dummy_prefix_space": only(True, finding="leaves out the leading space, which the runtime adds"),
        "bos_token": _token("<s>"),
        "eos_token": _token("</s>"),
        "unk_token": _token("<unk>"),
        "clean_up_tokenization_spaces": only(
            False, finding="removes spaces from captions, which the runtime does not", acceptable=True
        ),
        "do_lower_case": only(False, finding="changes texts, which the runtime does not"),
        "sp_model_kwargs": only({}, finding="changes how texts are cut, which the runtime does not"),
        "split_special_tokens": only(False, finding="changes how texts are cut, which the runtime does not"),
        "truncation_side": only("right", finding="cuts the start of long texts, the runtime cuts the end"),
        "tokenizer_class": only(
            *("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"),
            finding="is no LLaMA tokenizer, which the runtime has",
        ),
        **harmless("add_eos_token", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
        **harmless("auto_map", "chat_template", "device_map", "from_slow", "is_local", "legacy", "local_files_only"),
        **harmless("mask_token", "model_input_names", "model_max_length", "name_or_path", "pad_token", "padding_side"),
        **harmless("processor_class", "return_token_type_ids", "spaces_between_special_tokens"),
        **harmless("special_tokens_map_file", "tokenizer_file", "trust_remote_code", "use_default_system_prompt"),
        **harmless("use_fast", "vocab_file", "backend", "image_token", "stride", "pad_to_multiple_of", "max_length"),
        **harmless("truncation_strategy", "pad_token_type_id", "sep_token", "cls_token"),
    },
)
"""The runtime pads and truncates texts and adds bos and eos itself (MODEL.md 4.1); fields about that are harmless."""


_SPECIAL = {"<s>", "</s>", "<unk>", "[PAD]"}
"""Tokens that the runtime has built in, and the official padding token, which does not occur in texts."""


def read_companions(folder: Path, qllama: QllamaConfig, reader: FieldReader) -> None:
    """Report to `reader` the settings in `folder` that differ from how the runtime reads texts and writes captions."""
    if (file := folder / TOKENIZER.file).exists() and (folder / "tokenizer.model").exists():
        reader.read(TOKENIZER, read_json(file))
    if (folder / "tokenizer.model").exists():
        _check_added_tokens(folder, reader)
    if (file := folder / GENERATION.file).exists():
        ends = reader.read(GENERATION, read_json(file)).get("eos")
        if ends is not None and ends != (qllama.eos_token_id,):
            reader.doubt(
                GENERATION.file,
                "eos_token_id",
                f"is {list(ends)}, but captions stop at {qllama.eos_token_id}, which config.json names",
            )


def _check_added_tokens(folder: Path, reader: FieldReader) -> None:
    """Report tokens outside the vocabulary: the library gives each one id, the runtime splits them like other text."""
    settings = read_json(folder / TOKENIZER.file) if (folder / TOKENIZER.file).exists() else {}
    decoder, more = settings.get("added_tokens_decoder"), settings.get("additional_special_tokens")
    tables = {
        "added_tokens_decoder": list(decoder.values()) if isinstance(decoder, Mapping) else [],
        "additional_special_tokens": more if isinstance(more, list) else [],
    }
    built_in = _SPECIAL | {_text(settings.get("pad_token"))}
    for name, tokens in tables.items():
        _doubt_tokens(TOKENIZER.file, name, set(map(_text, tokens)) - built_in, reader)
    if (file := folder / "added_tokens.json").exists():
        _doubt_tokens(file.name, "tokens", set(read_json(file)) - built_in, reader)


def _doubt_tokens(file: str, name: str, texts: set[str], reader: FieldReader) -> None:
    if texts:
        found = listed(map(ascii, sorted(texts)))
        reader.doubt(file, name, f"adds {found} to the vocabulary, which the runtime cuts like any text")


def _text(token: Any) -> str:
    """Return the text of a token, which a file may write as an object with further settings."""
    return str(token.get("content") if isinstance(token, Mapping) else token)
