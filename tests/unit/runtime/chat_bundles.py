"""Bundles of chat models whose graphs are never run: a small byte-level tokenizer and a conversation."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    ChatInfo,
    EmbeddingInfo,
    FileInfo,
    LanguageInfo,
    Manifest,
    ModelInfo,
    VisionInfo,
)

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
MARKUP = ("<ref>", "</ref>", "<box>", "</box>")
LETTERS = [*map(chr, range(ord("!"), ord("~") + 1)), *map(chr, range(ord("¡"), ord("¬") + 1))]
LETTERS += [*map(chr, range(ord("®"), ord("ÿ") + 1)), *map(chr, range(256, 324))]
"""Letters of the 256 bytes in pieces: the printable ones stand for themselves."""
MERGES = (("a", "b"), ("Ġ", "ab"))
"""Ids of the two merged pieces are 256 and 257, those of the added tokens follow."""
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def write_tokenizer(folder: Path, settings: Mapping[str, Any] | None = None, template: str | None = None) -> Path:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` of a byte-level tokenizer without whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*LETTERS, *("".join(pair) for pair in MERGES)]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    merges = "\n".join(" ".join(pair) for pair in MERGES)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    added = {str(258 + index): {"content": text, "special": True} for index, text in enumerate((*CONTROL, *MARKUP))}
    content: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": [*CONTROL[1:], *MARKUP],
        "bos_token": None,
        "unk_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**content, **(settings or {})}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def chat_bundle(folder: Path, tokens_per_tile: int = 2, **conversation: Any) -> Path:
    """Write the manifest of a bundle whose tokenizer lies in its folder `tokenizer`."""
    chat = {
        "layout": "official",
        "template": "internvl2_5",
        "system": None,
        "context_token_id": 263,
        "context_token": "<IMG_CONTEXT>",
        "start_token": "<img>",
        "end_token": "</img>",
        "stop_token_ids": (260,),
        "pad_token_id": 258,
    }
    table = EmbeddingInfo(file="weights", offset=0, dtype="float32", rows=300)
    language = LanguageInfo(
        layers=1,
        kv_heads=1,
        head_dim=2,
        hidden_size=2,
        vocab_size=300,
        max_context=64,
        max_positions=64,
        tokens_per_tile=tokens_per_tile,
        embedding=table,
    )
    model = ModelInfo(
        layout="internvl_chat",
        vision=VisionInfo(image_size=28, patch_size=14, hidden_size=2, tokens=5),
        language=language,
        chat=ChatInfo(**{**chat, **conversation}),
    )
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in folder.rglob("*") if path.is_file()}
    Manifest(schema=SCHEMA, producer={}, model=model, precision="fp32", graphs={}, files=digests).save(
        folder / "manifest.json"
    )
    return folder


def open_chat(folder: Path, jinja: str | None = None, **conversation: Any) -> InternVL:
    """Return an opened chat bundle; with a Jinja template it is of the native layout."""
    write_tokenizer(folder / "tokenizer", template=jinja)
    native = {} if jinja is None else {"layout": "native", "template": ""}
    return InternVL.open(chat_bundle(folder, **{**native, **conversation}))


def _digest(path: Path) -> FileInfo:
    content = path.read_bytes()
    return FileInfo(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
