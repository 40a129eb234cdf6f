"""The models that are served of a bundle: each of its graphs, and each task for which it has all graphs."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import CHAT_TOKENIZER
from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, LANGUAGE_MODEL, TEXT_ENCODER, TILE_ENCODER
from internvl_edge.runtime.bundle.manifest import GraphInfo, Manifest, TilingInfo
from internvl_edge.runtime.bundle.modes import default_mode, modes_of
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.serve.options import ANSWER_TOKENS, MAX_NEW_TOKENS
from internvl_edge.runtime.serve.requests import Parameter, Request
from internvl_edge.runtime.serve.scheduling.ticket import Key
from internvl_edge.runtime.serve.signature import DECLARED, AnswerLimits, Signature, Tensor
from internvl_edge.runtime.tasks.captions import ROLES as CAPTION_ROLES
from internvl_edge.runtime.tasks.generation.config import MOST_LOG_PROBABILITIES

ENCODE_IMAGE, ENCODE_TEXT, CLASSIFY, CAPTION = "encode_image", "encode_text", "classify", "caption"
CHAT = "chat"

MAX_BEAMS = 8
"""Most beams of one caption: each beam is a row of the decoder's cache."""

_IMAGE = Tensor(name="image", datatype="BYTES", shape=(-1,))
_TEXT = Tensor(name="text", datatype="BYTES", shape=(-1,))
_TEXT_CLASSES = (32, 64, 128)
"""Upper bounds, in bytes, of the classes of text lengths that are batched together.

All rows of a batch are padded to its longest; texts above the last bound form one class, since most are truncated."""
_CHAT_INPUTS = (
    Tensor(name="question", datatype="BYTES", shape=(1,)),
    Tensor(name="history", datatype="BYTES", shape=(-1, 2), optional=True),
    Tensor(name="system", datatype="BYTES", shape=(1,), optional=True),
    Tensor(name="image", datatype="BYTES", shape=(-1,), optional=True),
    Tensor(name="image_turns", datatype="INT64", shape=(-1,), optional=True),
    Tensor(name="image_tiles", datatype="INT64", shape=(-1,), optional=True),
    Tensor(name="stop", datatype="BYTES", shape=(-1,), optional=True),
)
_CHAT_OUTPUTS = (
    Tensor(name="text", datatype="BYTES", shape=(1,)),
    Tensor(name="finish_reason", datatype="BYTES", shape=(1,)),
    Tensor(name="prompt_tokens", datatype="INT64", shape=(1,)),
    Tensor(name="completion_tokens", datatype="INT64", shape=(1,)),
    Tensor(name="logprobs", datatype="BYTES", shape=(1,), optional=True),
)
_TILING = TilingInfo(fewest=1, most=12, thumbnail=True)
"""Tiling of the reference, for checkpoints without one of their own."""
_alone = count(1)


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers between two, fractions among them."""

    least: float
    most: float

    def __contains__(self, value: object) -> bool:
        """Return whether `value` is one of the numbers."""
        return type(value) in (int, float) and self.least <= value <= self.most  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The default and the allowed values of one parameter of a task: some texts, whole numbers or all numbers."""

    default: Parameter
    allowed: tuple[str, ...] | range | Span
    remedy: str = ""
    """How the server can be made to allow more, as the end of an error message."""

    def takes(self, value: Parameter) -> bool:
        """Return whether `value` is allowed."""
        if isinstance(self.allowed, range):
            return type(value) is int and value in self.allowed
        return value in self.allowed

    @property
    def words(self) -> str:
        """Return the allowed values as text for an error message."""
        if isinstance(self.allowed, range):
            return f"{self.allowed.start} to {self.allowed.stop - 1}"
        if isinstance(self.allowed, Span):
            return f"{self.allowed.least:g} to {self.allowed.most:g}"
        return " or ".join(self.allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One served model: its signature, and how its requests are batched and checked."""

    signature: Signature
    row_inputs: tuple[str, ...] = ()
    """Names of the inputs whose axis 0 counts the rows of the answer; empty: a request is never split or joined."""
    axes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Input of a graph -> its shape, with the names of its free axes."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Parameter -> its default and allowed values."""

    def rows(self, request: Request) -> int:
        """Return the number of rows that may be computed in different batches; 1 if the request is never split."""
        return len(request.inputs[self.row_inputs[0]]) if self.row_inputs else 1

    def parameters(self, request: Request) -> dict[str, Parameter]:
        """Return the model's parameters, with defaults; other parameters of the request belong to the protocol."""
        return {name: request.parameters.get(name, choice.default) for name, choice in self.choices.items()}

    def key(self, request: Request, *, stream: bool = False) -> Key:
        """Return the batching key: only requests with equal keys are joined in one batch."""
        if not self.row_inputs:
            return Key(self.signature.name, None, stream, next(_alone))
        inputs = tuple(
            (name, _row_bucket(name, values) if name in self.row_inputs else tuple(values))
            for name, values in sorted(request.inputs.items())
        )
        return Key(self.signature.name, (inputs, tuple(self.parameters(request).items()), request.outputs), stream)

    def part(self, request: Request, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the inputs of rows `start` to `stop`, without those that all rows share."""
        if not self.row_inputs:
            return dict(request.inputs)
        return {name: request.inputs[name][start:stop] for name in self.row_inputs}

    def shared(self, request: Request) -> dict[str, np.ndarray]:
        """Return the inputs that all rows share, such as labels."""
        if not self.row_inputs:
            return {}
        return {name: values for name, values in request.inputs.items() if name not in self.row_inputs}


def served_models(
    manifest: Manifest,
    graphs: tuple[str, ...] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    max_answer_tokens: int | None = None,
) -> dict[str, ServedModel]:
    """Return the models that are served of a bundle, by name.

    Args:
        manifest: The bundle's manifest.
        graphs: Names of the graphs to serve; None: all of the bundle.
        max_new_tokens: Largest number of tokens that a client may ask for in one caption.
        max_answer_tokens: Largest number of tokens of an answer; None: what the context has room for.

    Raises:
        BundleError: The bundle lacks one of `graphs`, or a tensor's type has no name in the protocol.
    """
    chosen = tuple(manifest.graphs) if graphs is None else graphs
    if lacking := [name for name in chosen if name not in manifest.graphs]:
        have = ", ".join(manifest.graphs)
        raise BundleError(f"serve: the bundle has no graph {', '.join(lacking)}; choose from {have}")
    served = replace(manifest, graphs={name: manifest.graphs[name] for name in chosen})
    models = {name: _graph(name, info) for name, info in served.graphs.items()}
    tasks = [*_tasks(served, max_new_tokens), *_chat(served, max_answer_tokens)]
    return models | {task.signature.name: task for task in tasks}


def _graph(name: str, info: GraphInfo) -> ServedModel:
    inputs = tuple(_tensor(spec.name, spec.dtype, spec.shape) for spec in info.inputs)
    outputs = tuple(_tensor(spec.name, spec.dtype, spec.shape) for spec in info.outputs)
    first = {spec.shape[0] if spec.shape else None for spec in (*info.inputs, *info.outputs)}
    batched = len(first) == 1 and isinstance(next(iter(first)), str)
    return ServedModel(
        signature=Signature(name=name, inputs=inputs, outputs=outputs, parameters={}, batched=batched),
        row_inputs=tuple(tensor.name for tensor in inputs) if batched else (),
        axes={spec.name: spec.shape for spec in info.inputs},
    )


def _tasks(manifest: Manifest, max_new_tokens: int) -> list[ServedModel]:
    model, roles, encoder = manifest.model, manifest.roles, manifest.graph_of(IMAGE_ENCODER)
    pools = encoder is not None and any(spec.name == "image_embeds" for spec in manifest.graphs[encoder].outputs)
    texts = TEXT_ENCODER in roles and "tokenizer.model" in manifest.files
    tasks = []
    if pools:
        tasks.append(_encode_image(model.embed_dim or -1, modes_of(roles)))
    if texts:
        tasks.append(_encode_text(model.embed_dim or -1))
    if pools and texts:
        tasks.append(_classify(modes_of(roles), default_mode(roles)))
    if roles.issuperset(CAPTION_ROLES) and "tokenizer.model" in manifest.files:
        tasks.append(_caption(max_new_tokens, model.text.max_positions if model.text else None))
    return tasks


def _encode_image(width: int, modes: tuple[str, ...]) -> ServedModel:
    return ServedModel(
        signature=Signature(
            name=ENCODE_IMAGE,
            inputs=(_IMAGE,),
            outputs=(Tensor(name="embedding", datatype="FP32", shape=(-1, width)),),
            parameters={"mode": f"whose feature: {_modes_text(modes)}; c by default"},
            batched=True,
            modes=modes,
        ),
        row_inputs=("image",),
        choices={"mode": Choice(default="c", allowed=modes)},
    )


def _modes_text(modes: tuple[str, ...]) -> str:
    return " or ".join(f"{mode} (InternVL-{mode.upper()})" for mode in modes)


def _encode_text(width: int) -> ServedModel:
    return ServedModel(
        signature=Signature(
            name=ENCODE_TEXT,
            inputs=(_TEXT,),
            outputs=(Tensor(name="embedding", datatype="FP32", shape=(-1, width)),),
            parameters={},
            batched=True,
        ),
        row_inputs=(_TEXT.name,),
    )


def _classify(modes: tuple[str, ...], default: str) -> ServedModel:
    return ServedModel(
        signature=Signature(
            name=CLASSIFY,
            inputs=(
                _IMAGE,
                Tensor(name="labels", datatype="BYTES", shape=(-1,)),
                Tensor(name="templates", datatype="BYTES", shape=(-1,), optional=True),
            ),
            outputs=(Tensor(name="probabilities", datatype="FP32", shape=(-1, -1)),),
            parameters={"mode": f"whose features: {_modes_text(modes)}; {default} by default"},
            batched=False,
            modes=modes,
        ),
        row_inputs=("image",),
        choices={"mode": Choice(default=default, allowed=modes)},
    )


def _caption(new_tokens: int, positions: int | None) -> ServedModel:
    most = min(new_tokens, positions or new_tokens)
    remedy = "; serve with a larger --max-new-tokens for more" if most != positions else ""
    return ServedModel(
        signature=Signature(
            name=CAPTION,
            inputs=(_IMAGE, Tensor(name="prompt", datatype="BYTES", shape=(1,), optional=True)),
            outputs=(_TEXT,),
            parameters={
                "num_beams": "beams of the search; 1 by default, and always where the answer streams",
                "max_new_tokens": "tokens of a caption at most; 30 by default",
                "min_new_tokens": "tokens of a caption at least; 0 by default",
            },
            batched=False,
            streams=True,
        ),
        row_inputs=("image",),
        choices={
            "num_beams": Choice(default=1, allowed=range(1, MAX_BEAMS + 1)),
            "max_new_tokens": Choice(default=min(30, most), allowed=range(1, most + 1), remedy=remedy),
            "min_new_tokens": Choice(default=0, allowed=range(most + 1), remedy=remedy),
        },
    )


def _chat(manifest: Manifest, most_tokens: int | None) -> Iterator[ServedModel]:
    """Yield the model of conversations, for which a bundle needs a language model; pictures need its tile encoder."""
    language, tiling = manifest.model.language, manifest.model.tiling or _TILING
    tokenizer = any(name.startswith(f"{CHAT_TOKENIZER}/") for name in manifest.files)
    if language is None or manifest.model.chat is None or LANGUAGE_MODEL not in manifest.roles or not tokenizer:
        return
    sees = TILE_ENCODER in manifest.roles
    limits = AnswerLimits(
        new_tokens=min(most_tokens or language.max_context, language.max_context),
        context=language.max_context,
        tile_tokens=language.tokens_per_tile if sees else 0,
        tiles=tiling.most,
    )
    choices = {name: choice for name, (choice, _) in _chat_parameters(limits).items()}
    yield ServedModel(
        signature=Signature(
            name=CHAT,
            inputs=_CHAT_INPUTS if sees else tuple(tensor for tensor in _CHAT_INPUTS if "image" not in tensor.name),
            outputs=_CHAT_OUTPUTS,
            parameters={name: words for name, (_, words) in _chat_parameters(limits).items()},
            batched=False,
            streams=True,
            answers=limits,
        ),
        choices=choices,
    )


def _chat_parameters(limits: AnswerLimits) -> dict[str, tuple[Choice, str]]:
    """Return the parameters of a conversation, each with its description."""
    remedy = "; serve with a larger --max-answer-tokens for more" if limits.new_tokens < limits.context else ""
    usual = min(ANSWER_TOKENS, limits.new_tokens)
    rows: dict[str, tuple[Choice, str]] = {
        "max_new_tokens": (
            Choice(default=0, allowed=range(limits.new_tokens + 1), remedy=remedy),
            f"tokens of the answer at most; 0, the default: {usual}, or what the context has room for",
        ),
        "temperature": (
            Choice(default=0, allowed=Span(0, 2)),
            "0, the default: the most likely token each time; more: tokens are drawn at random",
        ),
        "top_k": (Choice(default=50, allowed=range(1 << 31)), "most likely tokens that are drawn from; 0: all"),
        "top_p": (Choice(default=1, allowed=Span(0, 1)), "probability of the most likely tokens that are drawn from"),
        "min_p": (Choice(default=0, allowed=Span(0, 1)), "least probability, of the most likely one's, that is drawn"),
        "repetition_penalty": (
            Choice(default=1, allowed=Span(0.01, 100)),
            "factor by which tokens of the answer get less likely; 1, the default, changes nothing",
        ),
        "seed": (
            Choice(default=-1, allowed=range(-1, 1 << 63)),
            "seed of the drawing; -1, the default: another one each time",
        ),
        "logprobs": (
            Choice(default=-1, allowed=range(-1, MOST_LOG_PROBABILITIES + 1)),
            "alternatives of each token in the output logprobs, JSON; -1, the default: no such output",
        ),
    }
    if limits.tile_tokens:
        words = f"tiles of a picture at most; {limits.tiles} by default"
        rows["max_tiles"] = (Choice(default=limits.tiles, allowed=range(1, limits.tiles + 1)), words)
    return rows


def _tensor(name: str, dtype: str, shape: tuple[int | str, ...]) -> Tensor:
    if dtype not in DECLARED:
        raise BundleError(f"serve: {name} is {dtype}, which the protocol lacks; export with --dtype fp16 or fp32")
    sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
    return Tensor(name=name, datatype=DECLARED[dtype], shape=sizes)


def _row_bucket(name: str, values: np.ndarray) -> Hashable:
    """Return what rows of a batch must have in common: the shape of a row, or a text's class of length; else None."""
    if values.dtype != np.object_:
        return values.shape[1:]
    return sum(max(map(len, values)) > limit for limit in _TEXT_CLASSES) if name == _TEXT.name else None
