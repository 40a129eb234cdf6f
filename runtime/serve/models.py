"""What a bundle is served as: each of its graphs, and the tasks that its graphs suffice for."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.bundle.manifest import GraphInfo, Manifest
from internvl_edge.runtime.bundle.modes import default_mode, modes_of
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.serve.options import MAX_NEW_TOKENS
from internvl_edge.runtime.serve.requests import Parameter, Request
from internvl_edge.runtime.serve.scheduling.ticket import Key
from internvl_edge.runtime.serve.signature import DECLARED, Signature, Tensor
from internvl_edge.runtime.tasks.captions import ROLES as CAPTION_ROLES

ENCODE_IMAGE, ENCODE_TEXT, CLASSIFY, CAPTION = "encode_image", "encode_text", "classify", "caption"

MAX_BEAMS = 8
"""Each is a row of the decoder's cache."""

_IMAGE = Tensor(name="image", datatype="BYTES", shape=(-1,))
_TEXT = Tensor(name="text", datatype="BYTES", shape=(-1,))
_TEXT_CLASSES = (32, 64, 128)
"""Bytes of texts that go together: rows of a batch are as long as its longest, and of more bytes most are cut."""
_alone = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A parameter of a task: one of some texts, or a number in a range."""

    default: Parameter
    allowed: tuple[str, ...] | range
    remedy: str = ""
    """What makes a server allow more, as the end of a sentence."""

    def takes(self, value: Parameter) -> bool:
        """Return whether a value may be given."""
        if isinstance(self.allowed, range):
            return type(value) is int and value in self.allowed
        return value in self.allowed

    @property
    def words(self) -> str:
        """Return what may be given, in words."""
        if isinstance(self.allowed, range):
            return f"{self.allowed.start} to {self.allowed.stop - 1}"
        return " or ".join(self.allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model with what the engine has to know of it."""

    signature: Signature
    row_inputs: tuple[str, ...] = ()
    """Inputs of which each row belongs to a row of the answer; empty: a request goes alone and whole."""
    axes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Shapes of a graph's inputs with the names of free axes."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Parameters."""

    def rows(self, request: Request) -> int:
        """Return how many rows a request has that may go apart; of a request that goes whole, 1."""
        return len(request.inputs[self.row_inputs[0]]) if self.row_inputs else 1

    def parameters(self, request: Request) -> dict[str, Parameter]:
        """Return the parameters that it knows, with defaults; what it does not know is the protocol's own."""
        return {name: request.parameters.get(name, choice.default) for name, choice in self.choices.items()}

    def key(self, request: Request, *, stream: bool = False) -> Key:
        """Return what other requests must have in common with this one to be joined with it."""
        if not self.row_inputs:
            return Key(self.signature.name, None, stream, next(_alone))
        inputs = tuple(
            (name, _row_bucket(name, values) if name in self.row_inputs else tuple(values))
            for name, values in sorted(request.inputs.items())
        )
        return Key(self.signature.name, (inputs, tuple(self.parameters(request).items()), request.outputs), stream)

    def part(self, request: Request, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the inputs of some rows, without those that are one for all."""
        if not self.row_inputs:
            return dict(request.inputs)
        return {name: request.inputs[name][start:stop] for name in self.row_inputs}

    def shared(self, request: Request) -> dict[str, np.ndarray]:
        """Return the inputs that are one for all rows."""
        if not self.row_inputs:
            return {}
        return {name: values for name, values in request.inputs.items() if name not in self.row_inputs}


def served_models(
    manifest: Manifest, graphs: tuple[str, ...] | None = None, max_new_tokens: int = MAX_NEW_TOKENS
) -> dict[str, ServedModel]:
    """Return what is served of a bundle by name; of `graphs` alone where given. `max_new_tokens` bounds captions.

    Raises:
        BundleError: the bundle has no such graph.
    """
    chosen = tuple(manifest.graphs) if graphs is None else graphs
    if lacking := [name for name in chosen if name not in manifest.graphs]:
        have = ", ".join(manifest.graphs)
        raise BundleError(f"serve: the bundle has no graph {', '.join(lacking)}; choose from {have}")
    served = replace(manifest, graphs={name: manifest.graphs[name] for name in chosen})
    models = {name: _graph(name, info) for name, info in served.graphs.items()}
    return models | {task.signature.name: task for task in _tasks(served, max_new_tokens)}


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


def _tensor(name: str, dtype: str, shape: tuple[int | str, ...]) -> Tensor:
    if dtype not in DECLARED:
        raise BundleError(f"serve: {name} is {dtype}, which the protocol lacks; export with --dtype fp16 or fp32")
    sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
    return Tensor(name=name, datatype=DECLARED[dtype], shape=sizes)


def _row_bucket(name: str, values: np.ndarray) -> Hashable:
    """Return what rows must share: the shape of a row; of texts, about the same length; of pictures, nothing."""
    if values.dtype != np.object_:
        return values.shape[1:]
    return sum(max(map(len, values)) > limit for limit in _TEXT_CLASSES) if name == _TEXT.name else None
