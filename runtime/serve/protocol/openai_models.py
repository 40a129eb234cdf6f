"""The models that OpenAI's endpoints offer, by name, of those that are served."""

from collections.abc import Mapping, Sequence
from typing import Any

from internvl_edge.runtime.serve.models import CHAT, ENCODE_IMAGE, ENCODE_TEXT
from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.refusals import UnknownModelError
from internvl_edge.runtime.serve.signature import Signature

PREFIX = "internvl-"
"""Prefix of the models' names; the rest is the kind of picture features, as c or g, or ``chat``."""


def embedding_models(signatures: Mapping[str, Signature]) -> tuple[str, ...]:
    """Return the names of the models of embeddings: one for each kind of picture features. Texts have one kind."""
    pictures, texts = signatures.get(ENCODE_IMAGE), signatures.get(ENCODE_TEXT)
    modes = pictures.modes if pictures else ("c",) if texts else ()
    return tuple(f"{PREFIX}{mode}" for mode in modes)


def chat_models(signatures: Mapping[str, Signature]) -> tuple[str, ...]:
    """Return the names of the models of chat completions: one, or none without a language model."""
    return (f"{PREFIX}{CHAT}",) if CHAT in signatures else ()


def openai_models(signatures: Mapping[str, Signature]) -> tuple[str, ...]:
    """Return the names of all models that OpenAI's endpoints offer."""
    return embedding_models(signatures) + chat_models(signatures)


def model_entry(name: str, models: Sequence[str]) -> dict[str, Any]:
    """Return the description of a model.

    Raises:
        UnknownModelError: There is no model of this name.
    """
    require_model(name, models)
    return {"id": name, "object": "model", "created": 0, "owned_by": "internvl-edge"}


def require_model(name: Any, models: Sequence[str]) -> str:
    """Return the name of a model, which is one of `models`.

    Raises:
        UnknownModelError: It is not.
    """
    if name not in models:
        listed = ", ".join(models) or "none"
        raise UnknownModelError(
            f"model {quoted(name)} is not served here; there are {listed}", param="model", code="model_not_found"
        )
    return str(name)
