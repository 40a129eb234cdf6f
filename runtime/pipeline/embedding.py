"""The features of many pictures or texts to a file: `internvl-edge run embed`."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from internvl_edge.runtime.bundle import sha256_file
from internvl_edge.runtime.decode import NAMED, check_header, listed, reason
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.pipeline.batches import Batch, BatchOptions, batches
from internvl_edge.runtime.pipeline.outputs import Features, Kind, require_format, write_features, write_lines
from internvl_edge.runtime.pipeline.shards import Compute, Part, Shard, ShardFolder, complete
from internvl_edge.runtime.pipeline.sources import SourcePicture

if TYPE_CHECKING:
    from internvl_edge.runtime.model import InternVL, Mode

_SHARD_ROWS = 256
"""About: a multiple of the batch. What a killed run loses at most; 0.8 MB of 768 fp32 values each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """What is computed, and what becomes of inputs that cannot be read."""

    output: Path
    """Its ending is the format: .npz, .npy (names in a .names.jsonl beside it) or .parquet."""
    mode: "Mode" = "g"
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 32
    workers: int | None = None
    """Threads that decode; None: one a core, 8 at most."""
    on_error: Literal["fail", "skip"] = "fail"
    """skip: inputs that cannot be read have no row, and are listed."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a batch of no row, or nothing known for errors.
        """
        if self.batch_size < 1 or self.on_error not in ("fail", "skip"):
            raise InputError(
                f"embed: batch_size {self.batch_size}, on_error {self.on_error}; give 1 or more, and fail or skip"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What was written."""

    output: Path
    shapes: dict[str, tuple[int, int]]
    """Rows and values of what the file holds, by name."""
    computed: int
    """Inputs that went through the graph in this run; the others were finished before."""
    earlier: int
    seconds: float
    bad: tuple[tuple[str, str], ...]

    def summary(self) -> str:
        """Return it in a line or two."""
        line = f"{self.output}: " + ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
        if self.computed:
            line += f"; {self.computed / self.seconds:.1f} a second"
        if self.earlier:
            line += f"; {self.earlier} were there from an earlier run"
        if self.bad:
            line += f"\n{len(self.bad)} left out, see {bad_file(self.output)}: {listed(self.bad)}"
        return line


def bad_file(output: Path) -> Path:
    """Return the JSONL that lists the inputs left out."""
    return output.with_suffix(".bad.jsonl")


def embed(
    model: "InternVL",
    pictures: Sequence[SourcePicture],
    options: EmbedOptions,
    texts: Sequence[str] = (),
    advance: Callable[[int], object] = lambda amount: None,
) -> EmbedReport:
    """Write the raw features of pictures, and of some texts beside them into an .npz; a killed run is taken up.

    `advance` is told how many more pictures are done.

    Raises:
        InputError: nothing to embed, unreadable pictures, texts for a format without a place for them, or an
            unfinished run with other settings.
        BackendError: features that are NaN or infinite, or that overflow float16.
    """
    if not pictures and not texts:
        raise InputError("embed: neither pictures nor texts given; name pictures, or add -t TEXT")
    require_format(options.output)
    if texts and options.output.suffix != ".npz":
        raise InputError(f"{options.output}: has no place for -t; name an .npz, or embed a table with --text-column")
    text_embeds = _cast(model.encode_text(texts), "text", options) if texts else None
    compute = _PictureFeatures(model, pictures, options)
    identities = [_identity(picture) for picture in pictures]
    return _Run(model, "image", options, advance).write(identities, compute, texts, text_embeds)


def embed_texts(
    model: "InternVL",
    texts: Sequence[str],
    options: EmbedOptions,
    advance: Callable[[int], object] = lambda amount: None,
) -> EmbedReport:
    """Write the raw features of texts, as `embed` those of pictures.

    Raises:
        InputError: no text, empty ones, an .npz (whose names are as wide as the longest), or as `embed`.
        BackendError: as `embed`.
    """
    if not texts:
        raise InputError("embed: no text given; give a table of texts")
    require_format(options.output)
    if options.output.suffix == ".npz":
        raise InputError(f"{options.output}: does not suit tables of texts; name an .npy or .parquet")
    return _Run(model, "text", options, advance).write(texts, _TextFeatures(model, texts, options))


def kept_line(output: Path) -> str:
    """Return a line that says what an interrupted run left behind."""
    folder = ShardFolder(output)
    return f"{output}: interrupted, {folder.rows()} rows are kept in {folder.path.name}; the same command goes on there"


@dataclass(frozen=True, slots=True)
class _Run:
    """One output."""

    model: "InternVL"
    kind: Kind
    options: EmbedOptions
    advance: Callable[[int], object]

    def write(
        self,
        identities: Sequence[str],
        compute: Compute,
        texts: Sequence[str] = (),
        text_embeds: np.ndarray | None = None,
    ) -> EmbedReport:
        """Compute what is missing, and write it all."""
        output, start, computed = self.options.output, time.perf_counter(), 0

        def counted(inputs: Sequence[int]) -> Generator[Part, None, None]:
            nonlocal computed
            computed = len(inputs)
            return compute(inputs)

        folder = ShardFolder(output)
        folder.open(self._settings() if identities else {})
        size = -(-_SHARD_ROWS // self.options.batch_size) * self.options.batch_size
        shards = complete(folder, identities, size, counted, self.advance)
        seconds = time.perf_counter() - start
        features = self._features(folder, shards, texts, text_embeds)
        bad = tuple(finding for shard in shards for finding in shard.bad)
        if bad and self.options.on_error == "fail":  # of an earlier run that skipped them
            raise InputError(_unreadable(bad))
        if bad and not features.names:
            raise InputError(f"embed: nothing readable: {listed(bad)}; give PNG, JPEG or what else Pillow reads")
        _write_bad(output, bad)
        write_features(output, features)
        folder.remove()
        return EmbedReport(
            output=output,
            shapes=_shapes(features),
            computed=computed,
            earlier=len(identities) - computed,
            seconds=seconds,
            bad=bad,
        )

    def _features(
        self, folder: ShardFolder, shards: Sequence[Shard], texts: Sequence[str], text_embeds: np.ndarray | None
    ) -> Features:
        parts = [folder.rows_file(index) for index, shard in enumerate(shards) if shard.names]
        return Features(
            kind=self.kind,
            names=[name for shard in shards for name in shard.names],
            parts=parts,
            dim=int(np.load(parts[0], mmap_mode="r").shape[1]) if parts else 0,
            dtype=self.options.dtype,
            texts=texts,
            text_embeds=text_embeds,
        )

    def _settings(self) -> dict[str, Any]:
        """Return what must be the same for shards of two runs to go into one file."""
        graph = "vision" if self.kind == "image" else "text"
        mode = {"mode": self.options.mode} if self.kind == "image" else {}
        return {
            "rows": self.kind,
            "bundle": sha256_file(self.model.bundle.path / "manifest.json")[:16],
            "backend": self.model.session(graph).backend,
            **mode,
            "dtype": self.options.dtype,
            "batch size": self.options.batch_size,
        }


class _PictureFeatures:
    """Decodes and scales in threads while the graph runs."""

    def __init__(self, model: "InternVL", pictures: Sequence[SourcePicture], options: EmbedOptions) -> None:
        self._model = model
        self._pictures = pictures
        self._options = options

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        todo = [self._pictures[index] for index in inputs]
        settings = BatchOptions(
            image_size=self._model.info.image_size,
            batch_size=self._options.batch_size,
            workers=self._options.workers,
        )
        with closing(batches(todo, settings, self._model.stages)) as stream:
            for batch in stream:
                bad = tuple((todo[index].name, why) for index, why in batch.bad)
                if bad and self._options.on_error == "fail":
                    ahead = _bad_headers(todo[batch.start + batch.count :], NAMED - len(bad))
                    raise InputError(_unreadable([*bad, *ahead]))
                yield Part(self._rows(batch), _names(todo, batch), bad)

    def _rows(self, batch: Batch) -> np.ndarray:
        if not len(batch.pixel_values):
            return np.empty((0, 0))
        return _cast(self._model.encode_image(batch.pixel_values, self._options.mode), "pictures", self._options)


class _TextFeatures:
    """Encodes batch by batch, each text checked on its own."""

    def __init__(self, model: "InternVL", texts: Sequence[str], options: EmbedOptions) -> None:
        self._model = model
        self._texts = texts
        self._options = options

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        wrong = {index: why for index in inputs if (why := _text_fault(self._texts[index]))}
        if wrong and self._options.on_error == "fail":
            raise InputError(_unreadable([(f"text {index}", why) for index, why in wrong.items()]))
        for start in range(0, len(inputs), self._options.batch_size):
            batch = inputs[start : start + self._options.batch_size]
            texts = [self._texts[index] for index in batch if index not in wrong]
            bad = tuple((f"text {index}", wrong[index]) for index in batch if index in wrong)
            rows = _cast(self._model.encode_text(texts), "texts", self._options) if texts else np.empty((0, 0))
            yield Part(rows, tuple(texts), bad)


def _text_fault(text: str) -> str:
    """Return why a text cannot be encoded; empty if it can."""
    if not text.strip():
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "no valid Unicode"
    return ""


def _cast(features: np.ndarray, what: str, options: EmbedOptions) -> np.ndarray:
    require_finite(features, what)
    with np.errstate(over="ignore"):  # told below
        rows = features.astype(options.dtype, copy=False)
    if not np.isfinite(rows).all():
        raise BackendError(
            f"embed: features of {what} up to {np.abs(features).max():.4g}, too large for float16; write float32"
        )
    return rows


def _unreadable(findings: Sequence[tuple[str, str]]) -> str:
    return (
        f"embed: unreadable: {listed(findings)}; repair them, or run again with --on-error skip:"
        " what is finished is kept"
    )


def _identity(picture: SourcePicture) -> str:
    size, changed = picture.stamp()
    return f"{picture.name} {size} {changed}"


def _names(todo: Sequence[SourcePicture], batch: Batch) -> tuple[str, ...]:
    bad = {index for index, _ in batch.bad}
    return tuple(todo[index].name for index in range(batch.start, batch.start + batch.count) if index not in bad)


def _bad_headers(pictures: Sequence[SourcePicture], most: int) -> Iterator[tuple[str, str]]:
    """Yield name and reason of the first `most` pictures whose headers cannot be read."""
    for picture in pictures:
        if most <= 0:
            return
        try:
            check_header(picture.content())
        except Exception as error:  # as in the batches
            most -= 1
            yield picture.name, reason(error)


def _shapes(features: Features) -> dict[str, tuple[int, int]]:
    shapes = {f"{features.kind}_embeds": (len(features.names), features.dim)} if features.names else {}
    if features.text_embeds is not None:
        shapes["text_embeds"] = (len(features.text_embeds), features.text_embeds.shape[1])
    return shapes


def _write_bad(output: Path, bad: Sequence[tuple[str, str]]) -> None:
    """List the inputs left out; a list of an earlier run goes."""
    if bad:
        write_lines(bad_file(output), [{"input": name, "reason": why} for name, why in bad])
    else:
        bad_file(output).unlink(missing_ok=True)
