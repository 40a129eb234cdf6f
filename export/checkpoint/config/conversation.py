"""Read how a chat checkpoint converses: template, tokenizer, and the ids that end its answers (CHAT.md 2, 5, 6)."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.export.checkpoint.config.chat_files import (
    GENERATION,
    IMAGE_TOKENS,
    SETTINGS_TABLE,
    jinja_source,
    tokenizer_files,
    vocabulary_file,
)
from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.models.config import LanguageConfig, ModelConfig
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime.bundle.chat_tokenizer.settings import SETTINGS, content_of
from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import CHAT_TOKENIZER, ChatTokenizer, open_chat_tokenizer
from internvl_edge.runtime.bundle.manifest import ChatInfo
from internvl_edge.runtime.errors import BundleError, CheckpointError
from internvl_edge.runtime.tasks.chat.native_template import NATIVE_TEMPLATE, NativeTemplate
from internvl_edge.runtime.tasks.chat.templates import templates

logger = logging.getLogger(__name__)

_VIDEO = "<video>"
"""Token of the native layout that never reaches the model, so that its id may be beyond the logits."""
_OTHER_MODEL = "take the tokenizer's files of this checkpoint, they are another model's"
_MISSING = (
    "has no tokenizer (tokenizer.json, vocab.json with merges.txt, or tokenizer.model);"
    " copy its files from the original checkpoint"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The conversation of a checkpoint."""

    chat: ChatInfo
    max_length: int | None = None
    """Most tokens that its tokenizer allows; None: it states no limit."""
    files: tuple[Path, ...] = ()
    """Files of the tokenizer that the runtime reads."""
    template: str | None = None
    """Source of the Jinja template of the native layout."""
    tokenizer: ChatTokenizer | None = None
    """The opened tokenizer; None where only ids are taken."""
    accepted_fields: tuple[str, ...] = ()
    """Unknown fields in its files that the user accepted as having no effect."""

    def copy_to(self, bundle: Path) -> None:
        """Copy the tokenizer and the template into a bundle."""
        if self.files:
            (bundle / CHAT_TOKENIZER).mkdir(exist_ok=True)
        for path in self.files:
            shutil.copyfile(path, bundle / CHAT_TOKENIZER / path.name)
        if self.template is not None:
            (bundle / NATIVE_TEMPLATE).write_text(self.template, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Content of the files that a conversation is read from; empty where a file is missing."""

    folder: Path
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: ChatTokenizer | None
    reader: FieldReader

    def ids(self, texts: Sequence[str]) -> list[int] | None:
        """Return the ids of tokens; None, and a finding, if the tokenizer lacks some."""
        found = [self.tokenizer.token_id(text) if self.tokenizer is not None else None for text in texts]
        if absent := [text for text, key in zip(texts, found, strict=True) if key is None]:
            self.reader.find("tokenizer", f"has no token {', '.join(absent)}; {_OTHER_MODEL}")
        known = [key for key in found if key is not None]
        return known if len(known) == len(found) else None


def read_conversation(folder: Path, config: ModelConfig, reader: FieldReader) -> Conversation:
    """Return the conversation of the chat checkpoint in `folder`.

    A native checkpoint without a tokenizer gives one that takes ids alone.

    Raises:
        CheckpointError: with all findings: files that are missing, damaged or of another model, an unknown template.
    """
    settings, native = _json(folder / SETTINGS), config.layout == "internvl_hf"
    vocabulary = vocabulary_file(folder, settings, native)
    if vocabulary is None and not native:
        raise CheckpointError(f"{folder}: {_MISSING}, or leave the language model out with --graphs vision")
    if vocabulary is None:
        logger.warning("%s: %s; until then the bundle takes ids, no texts", folder, _MISSING)
    elif "tokenizer_class" not in settings:
        reader.find(SETTINGS, "is missing or names no tokenizer_class; copy it from the original checkpoint")
    files = _Files(
        folder=folder,
        config=_json(folder / CONFIG_FILE),
        settings=settings,
        generation=_json(folder / GENERATION.file) if native else {},
        tokenizer=_tokenizer(folder, vocabulary),
        reader=reader,
    )
    length = reader.read(SETTINGS_TABLE, settings).get("max_length")
    chat = _native(files) if native else _official(files)
    source = jinja_source(folder) if native and vocabulary is not None else None
    if chat is not None and files.tokenizer is not None:
        _check_ids(chat, files.tokenizer, config.need(LanguageConfig).vocab_size, reader)
        if native:
            _check_jinja(source, chat, files.tokenizer, reader)
    if chat is None or reader.findings or reader.unknown:
        reader.fail()
    read = tokenizer_files(folder, vocabulary) if vocabulary is not None else ()
    return Conversation(
        chat=chat,
        max_length=length,
        files=read,
        template=source,
        tokenizer=files.tokenizer,
        accepted_fields=tuple(reader.accepted),
    )


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _tokenizer(folder: Path, vocabulary: str | None) -> ChatTokenizer | None:
    """Return the tokenizer of a checkpoint, or None if it has none.

    Raises:
        CheckpointError: its files are damaged.
    """
    if vocabulary is None:
        return None
    try:
        return open_chat_tokenizer(folder, vocabulary)
    except BundleError as error:
        raise CheckpointError(str(error)) from error


def _official(files: _Files) -> ChatInfo | None:
    """Return the conversation of the official layout, or None and findings.

    An answer ends at the template's token alone: `eos_token_id` of the files is another one (trap 6).
    """
    name, known = files.config.get("template"), templates()
    if not isinstance(name, str) or name not in known:
        files.reader.find(CONFIG_FILE, f"template is {name!r}, which is unknown; known are {', '.join(known)}")
        return None
    images = list(IMAGE_TOKENS.values())
    if (ids := files.ids([*images, known[name].stop])) is None:
        return None
    system, pad = files.config.get("system_message"), files.tokenizer.pad_token_id if files.tokenizer else None
    return ChatInfo(
        layout="official",
        template=name,
        system=system if isinstance(system, str) and system else None,
        context_token_id=ids[0],
        context_token=images[0],
        start_token=images[1],
        end_token=images[2],
        stop_token_ids=(ids[-1],),
        pad_token_id=pad if pad is not None else ids[-1],
    )


def _native(files: _Files) -> ChatInfo | None:
    """Return the conversation of the native layout, or None and findings."""
    grouped = [files.settings.get(f"{group}_special_tokens") for group in ("extra", "model_specific")]
    stated = {name: token for group in grouped if isinstance(group, Mapping) for name, token in group.items()}
    stated |= files.settings
    images = [content_of(stated.get(name)) or token for name, token in IMAGE_TOKENS.items()]
    context = files.config.get("image_token_id", files.config.get("image_token_index"))
    if not isinstance(context, int):
        files.reader.find(CONFIG_FILE, f"image_token_id is {context!r}, which is no token id")
    if files.tokenizer is not None and (ids := files.ids(images)) is not None and ids[0] != context:
        said = f"image_token_id is {context}, and {images[0]} of the tokenizer is {ids[0]}"
        files.reader.find(CONFIG_FILE, f"{said}; {_OTHER_MODEL}")
    ends = _ends(files)
    if ends is None or files.reader.findings or not isinstance(context, int):
        return None
    return ChatInfo(
        layout="native",
        template="",
        system=None,
        context_token_id=context,
        context_token=images[0],
        start_token=images[1],
        end_token=images[2],
        stop_token_ids=ends[0],
        pad_token_id=ends[1],
    )


def _ends(files: _Files) -> tuple[tuple[int, ...], int] | None:
    """Return the ids that end an answer and the id of padding, or None and a finding.

    `generation_config.json` says them. Where it does not, the tokenizer does, and `text_config`, which may be wrong,
    comes last.
    """
    tokenizer, text = files.tokenizer, files.config.get("text_config") or {}
    found = files.reader.read(GENERATION, files.generation)
    stops = found.get("stops") or ([tokenizer.eos_token_id] if tokenizer is not None else [])
    if stops in ([], [None]):
        stops = [text.get("eos_token_id")]
    named = [tokenizer.token_id(stop) if isinstance(stop, str) and tokenizer is not None else stop for stop in stops]
    known = tuple(stop for stop in named if isinstance(stop, int))
    if len(known) != len(named):
        files.reader.find(GENERATION.file, "names no known eos_token_id, so that answers would not end; copy it again")
        return None
    pads = (found.get("pad"), tokenizer.pad_token_id if tokenizer is not None else None, text.get("pad_token_id"))
    return known, next(pad for pad in (*pads, *known) if isinstance(pad, int))


def _check_ids(chat: ChatInfo, tokenizer: ChatTokenizer, vocabulary: int, reader: FieldReader) -> None:
    """Report ids that the model has no row for, and ids in the files that the tokenizer lacks."""
    beyond = [key for key in range(vocabulary, tokenizer.size) if tokenizer.knows(key)]
    if beyond and beyond != [tokenizer.token_id(_VIDEO)]:
        said = f"has ids up to {beyond[-1]}, and the model has rows for {vocabulary}"
        reader.find("tokenizer", f"{said}; {_OTHER_MODEL}")
    ids = {*chat.stop_token_ids, chat.pad_token_id, chat.context_token_id}
    if lacking := sorted(key for key in ids if not tokenizer.knows(key)):
        reader.find("tokenizer", f"lacks ids that the files name: {', '.join(map(str, lacking))}; {_OTHER_MODEL}")


def _check_jinja(source: str | None, chat: ChatInfo, tokenizer: ChatTokenizer, reader: FieldReader) -> None:
    """Report a template that is missing or does not work."""
    if source is None:
        reader.find("chat_template.jinja", "is missing; copy it from the original checkpoint")
        return
    try:
        NativeTemplate(source, chat.context_token, tokenizer.roles)
    except BundleError as error:
        reader.find("chat_template.jinja", str(error))
