"""Read and write `manifest.json`: the model, graphs and precision of a bundle, and the digest of every file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args, get_origin

from internvl_edge.runtime.bundle.graph_roles import GraphUse
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.outputs.strict_json import json_text

_Record = TypeVar("_Record")

SCHEMA = 2
"""Version of the manifest's layout that this code writes and reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, type and shape of an input or output of a graph. Dynamic axes have names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachInfo:
    """Largest magnitude that a value of the graph reached, and the limit of its type."""

    place: str
    """Module path of the node that computes the value."""
    largest: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInfo:
    """One graph: its file within the bundle, its inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    use: GraphUse = field(default_factory=GraphUse)
    closest: ReachInfo | None = None
    """Value in a 16-bit type that came closest to the limit of its type at verification; None for graphs without such
    values."""
    islands: tuple[ReachInfo, ...] = ()
    """Values that are fp32 in the graph because they exceed the 16-bit type or come close to its limit."""
    fp32_nodes: tuple[str, ...] = ()
    """Names of the nodes that compute in fp32 because of `islands`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """Size and digest of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionInfo:
    """Sizes of the vision tower: of the pictures that it takes and of the states that it returns."""

    image_size: int
    patch_size: int
    hidden_size: int
    tokens: int
    """Number of patches plus the class token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInfo:
    """QLLaMA: text encoder, query transformer and caption decoder."""

    layers: int
    heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    num_query_tokens: int
    """Number of query tokens, which come before a caption or a matched text."""
    max_text_length: int = 80
    """Most tokens of a text, bos and eos included."""
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingInfo:
    """The tiling of pictures for a chat model."""

    fewest: int
    """Fewest tiles that a picture is cut into, not counting the thumbnail."""
    most: int
    thumbnail: bool
    """Whether the whole picture, scaled down, is added as the last tile of a picture that was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingInfo:
    """Place of the table of token embeddings, ``[rows, hidden_size]`` in row-major order, in a file of the bundle."""

    file: str
    offset: int
    """Number of bytes before the table."""
    dtype: str
    """Type of its values, by its name in ONNX or NumPy: float32, float16 or bfloat16."""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageInfo:
    """The language model of a chat bundle."""

    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    """Number of logits. Not every id is a token of the tokenizer."""
    max_context: int
    """Most positions of a request, prompt and answer together; the export chose it."""
    max_positions: int
    """Number of positions of training; beyond it answers may get worse, and the runtime warns."""
    tokens_per_tile: int
    """Number of embeddings of a tile."""
    embedding: EmbeddingInfo
    rope_limit: int | None = None
    """Length of a request up to which the angles of its positions do not depend on the length; None: they never do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInfo:
    """The conversation that a chat model was trained on. Tokenizer files stand in the folder `tokenizer`."""

    layout: str
    """``official``: a template by name; ``native``: the Jinja template `tokenizer/chat_template.jinja`."""
    template: str
    """Name of the official template; empty in the native layout."""
    system: str | None
    """System text of the checkpoint's own; None means the template's."""
    context_token_id: int
    """Id whose embeddings are replaced by those of tiles."""
    context_token: str
    start_token: str
    end_token: str
    """Texts around the context tokens of a picture."""
    stop_token_ids: tuple[int, ...]
    pad_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Facts of the model that the runtime needs: a record for each part, None where the model has no such part."""

    layout: str
    """Layout of the checkpoint: internvl, internvit or internvl_chat."""
    vision: VisionInfo
    text: TextInfo | None = None
    tiling: TilingInfo | None = None
    embed_dim: int | None = None
    """Size of the features of pictures and texts."""
    logit_scale: float | None = None
    """Logarithm of the factor of cosines, as the checkpoint stores it."""
    language: LanguageInfo | None = None
    chat: ChatInfo | None = None

    @property
    def num_query_tokens(self) -> int:
        """Return the number of query tokens; 0 in a model without queries."""
        return self.text.num_query_tokens if self.text is not None else 0

    def require_text(self) -> TextInfo:
        """Return the record of the part that reads and writes texts.

        Raises:
            BundleError: the model has none.
        """
        if self.text is None:
            raise BundleError(missing_part(self.layout, "text part"))
        return self.text

    def require_language(self) -> LanguageInfo:
        """Return the record of the language model.

        Raises:
            BundleError: the bundle has none.
        """
        if self.language is None:
            raise BundleError(
                f"{self.layout}: has no language model; export a chat checkpoint with --graphs vision,llm"
            )
        return self.language


def missing_part(layout: str, part: str) -> str:
    """Return the message for a checkpoint of `layout` whose model lacks a part that a task needs."""
    return f"{layout} has no {part}; use a bundle of InternVL-14B for this"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole manifest."""

    schema: int
    producer: Mapping[str, str]
    """Versions of the packages that wrote the bundle."""
    model: ModelInfo
    precision: str
    graphs: Mapping[str, GraphInfo]
    files: Mapping[str, FileInfo]
    """Size and digest of every file but the manifest itself, by its path within the bundle."""
    accepted_config: tuple[str, ...] = ()
    """Fields of the checkpoint's files that the exporter does not know and that its user declared to have no effect."""

    def graph_of(self, role: str) -> str | None:
        """Return the name of the graph with a role of `graph_roles`, or None where the bundle has none."""
        return next((name for name, graph in self.graphs.items() if graph.use.role == role), None)

    @property
    def roles(self) -> frozenset[str]:
        """Return the roles of the bundle's graphs."""
        return frozenset(graph.use.role for graph in self.graphs.values())

    def save(self, path: Path) -> None:
        """Write the manifest."""
        path.write_text(json_text(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read the manifest.

        Raises:
            BundleError: it is absent, not JSON, of another schema, incomplete, or names files that it must not.
        """
        content = read_json_object(path)
        schema = content.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):
            raise BundleError(
                f"{path.parent}: bundle has schema {schema}, this runtime reads {SCHEMA};"
                " upgrade internvl-edge or export again"
            )
        try:
            manifest = cls(
                schema=schema,
                producer=dict(content["producer"]),
                model=_model(content["model"]),
                precision=str(content["precision"]),
                graphs={name: _graph(entry) for name, entry in content["graphs"].items()},
                files={name: _record(FileInfo, entry) for name, entry in content["files"].items()},
                accepted_config=tuple(map(str, content.get("accepted_config", ()))),
            )
        except KeyError as error:
            raise BundleError(f"{path}: has no {error}; export the bundle again") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{path}: not a manifest ({error}); export the bundle again") from error
        _check_files(manifest, path)
        return manifest


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a bundle.

    Raises:
        BundleError: the file does not exist, cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent}: no bundle, it has no {path.name}; give a folder that export wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error}); export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds no JSON object; export the bundle again")
    return content


def _graph(entry: Mapping[str, Any]) -> GraphInfo:
    inputs, outputs = (tuple(_tensor(t) for t in entry[key]) for key in ("inputs", "outputs"))
    closest = entry.get("closest")
    return GraphInfo(
        file=str(entry["file"]),
        inputs=inputs,
        outputs=outputs,
        use=_use(entry["use"]),
        closest=_record(ReachInfo, closest) if closest is not None else None,
        islands=tuple(_record(ReachInfo, island) for island in entry.get("islands", ())),
        fp32_nodes=tuple(map(str, entry.get("fp32_nodes", ()))),
    )


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    readers: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
        "vision": partial(_record, VisionInfo),
        "text": partial(_record, TextInfo),
        "tiling": partial(_record, TilingInfo),
        "language": _language,
        "chat": _chat,
    }
    found = {name: read(entry[name]) for name, read in readers.items() if entry.get(name) is not None}
    return _record(ModelInfo, {**entry, **found})


def _language(entry: Mapping[str, Any]) -> LanguageInfo:
    return _record(LanguageInfo, {**entry, "embedding": _record(EmbeddingInfo, entry["embedding"])})


def _chat(entry: Mapping[str, Any]) -> ChatInfo:
    return _record(ChatInfo, {**entry, "stop_token_ids": tuple(entry["stop_token_ids"])})


def _use(entry: Mapping[str, Any]) -> GraphUse:
    prompt = entry["prompt_tokens"]
    prompt = tuple(prompt) if prompt is not None else None
    use = GraphUse(**{**entry, "prompt_tokens": prompt, "new_tokens": tuple(entry["new_tokens"])})
    texts = (use.role, use.rows, *([use.ids] if use.ids is not None else []))
    counts = (*(use.prompt_tokens or (0, 0, 0)), *use.new_tokens)
    wrong = [value for value in texts if not isinstance(value, str)]
    if wrong or len(counts) != 5 or not all(isinstance(count, int) for count in counts):
        raise TypeError(f"a graph's use holds {', '.join(map(repr, (*texts, *counts)))}")
    return use


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(name=entry["name"], dtype=entry["dtype"], shape=tuple(entry["shape"]))


def _record(kind: Callable[..., _Record], entry: Mapping[str, Any]) -> _Record:
    """Return a dataclass of type `kind` from a JSON object; values of wrong types raise a TypeError that names all."""
    record = kind(**entry)
    values = {field: getattr(record, field.name) for field in fields(record)}  # type: ignore[arg-type]
    wrong = [f"{field.name} is {value!r}" for field, value in values.items() if not _is_a(value, field.type)]
    if wrong:
        raise TypeError(", ".join(wrong))
    return record


def _is_a(value: object, kind: Any) -> bool:
    """Return whether `value` is of type `kind`. An integer counts as a float, since JSON may write whole floats so."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(entry, get_args(kind)[0]) for entry in value)
    return isinstance(value, kind) or (type(value) is int and isinstance(float(value), kind))


def _check_files(manifest: Manifest, path: Path) -> None:
    graph_files = [graph.file for graph in manifest.graphs.values()]
    if outside := [name for name in (*manifest.files, *graph_files) if _escapes(name)]:
        listed = ", ".join(sorted(set(outside)))
        raise BundleError(f"{path}: names files outside the bundle ({listed}); do not trust this bundle")
    if unlisted := [name for name in graph_files if name not in manifest.files]:
        raise BundleError(f"{path}: has no digest of {', '.join(unlisted)}; export the bundle again")


def _escapes(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
