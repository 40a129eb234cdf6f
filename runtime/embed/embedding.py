"""Write the features of many pictures or texts to a file: `internvl-edge run embed`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.bundle.modes import mode_of
from internvl_edge.runtime.embed.compute import Engine, LocalEngine, cast, unreadable
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.embed.outputs import Features, Kind, names_file, require_format, write_features, write_lines
from internvl_edge.runtime.embed.shards import Compute, Shard, ShardFolder, complete
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.findings import listed
from internvl_edge.runtime.inputs.pictures.source import SourcePicture
from internvl_edge.runtime.inputs.read import UnusableText
from internvl_edge.runtime.monitor import UNMONITORED, Monitor

if TYPE_CHECKING:
    from internvl_edge.runtime.model import InternVL

_SHARD_ROWS = 256
"""Rows of a shard, rounded up to a multiple of the batch: a killed run loses at most so many.

A shard of 768 fp32 values a row takes 0.8 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """The outcome of one run."""

    output: Path
    shapes: dict[str, tuple[int, int]]
    """Name of an array in the file -> its shape."""
    computed: int
    """Number of inputs that were computed in this run."""
    earlier: int
    """Number of inputs that an earlier run had finished."""
    seconds: float
    """Seconds of the computation."""
    bad: tuple[tuple[str, str], ...]
    """Name and reason of each input that was left out."""

    def summary(self) -> str:
        """Return the outcome as one or two lines."""
        line = f"{self.output}: " + ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
        if self.computed:
            line += f"; {self.computed / self.seconds:.1f} a second"
        if self.earlier:
            line += f"; {self.earlier} were there from an earlier run"
        if self.bad:
            line += f"\n{len(self.bad)} left out, see {bad_file(self.output)}: {listed(self.bad)}"
        return line


def bad_file(output: Path) -> Path:
    """Return the path of the JSONL file that lists the inputs left out."""
    return output.with_suffix(".bad.jsonl")


def written_files(output: Path) -> list[Path]:
    """Return the paths of all files that a run may write or remove."""
    return [output, bad_file(output), *([names_file(output)] if output.suffix == ".npy" else [])]


def embed(
    model: "InternVL",
    pictures: Sequence[SourcePicture],
    options: EmbedOptions,
    texts: Sequence[str] = (),
    monitor: Monitor = UNMONITORED,
    engine: Engine | None = None,
) -> EmbedReport:
    """Write the raw features of pictures to a file, with those of some texts in an .npz; resume a killed run.

    Args:
        model: The opened model.
        pictures: Pictures to embed.
        options: Output, batch size, type and handling of unreadable inputs.
        texts: Texts whose features are added; only an .npz can hold them.
        monitor: Its `advance` is called with the number of further pictures that are done.
        engine: What computes the features; None: `model`, in this process.

    Raises:
        InputError: There is nothing to embed, pictures are unreadable, the format cannot hold texts, or an
            unfinished run had other settings.
        BackendError: Features are NaN or infinite, or overflow float16.
    """
    if not pictures and not texts:
        raise InputError("embed: neither pictures nor texts given; name pictures, or add -t TEXT")
    require_format(options.output)
    if texts and options.output.suffix != ".npz":
        raise InputError(f"{options.output}: has no place for -t; name an .npz, or embed a table with --text-column")
    if pictures:
        options = replace(options, mode=mode_of(model.bundle, options.mode))
    text_embeds = cast(model.encode_text(texts, Monitor(stages=monitor.stages)), "text", options) if texts else None
    engine = engine or LocalEngine(model, monitor.stages)
    identities = [_identity(picture) for picture in pictures]
    run = _Run(model, engine, "image", options, monitor)
    return run.write(identities, engine.pictures(pictures, options), texts, text_embeds)


def embed_texts(
    model: "InternVL",
    texts: Sequence[str | UnusableText],
    options: EmbedOptions,
    monitor: Monitor = UNMONITORED,
    engine: Engine | None = None,
) -> EmbedReport:
    """Write the raw features of texts to a file, as `embed` does for pictures.

    Raises:
        InputError: There is no text, texts are empty, the output is an .npz (in which all names would be as wide as
            the longest), or an unfinished run had other settings.
        BackendError: Features are NaN or infinite, or overflow float16.
    """
    if not texts:
        raise InputError("embed: no text given; give a table of texts")
    require_format(options.output)
    if options.output.suffix == ".npz":
        raise InputError(f"{options.output}: does not suit tables of texts; name an .npy or .parquet")
    engine = engine or LocalEngine(model, monitor.stages)
    return _Run(model, engine, "text", options, monitor).write(list(map(str, texts)), engine.texts(texts, options))


def kept_line(output: Path) -> str:
    """Return a line for the user that says how many rows an interrupted run has finished."""
    folder = ShardFolder(output)
    if not (rows := folder.rows()):
        return f"{output}: interrupted, nothing was finished yet; run it again"
    return f"{output}: interrupted, {rows} rows are kept in {folder.path.name}; the same command goes on there"


@dataclass(frozen=True, slots=True)
class _Run:
    """One run that writes one output."""

    model: "InternVL"
    engine: Engine
    kind: Kind
    options: EmbedOptions
    monitor: Monitor

    def write(
        self,
        identities: Sequence[str],
        compute: Compute,
        texts: Sequence[str] = (),
        text_embeds: np.ndarray | None = None,
    ) -> EmbedReport:
        """Compute the missing rows and write all rows to the output."""
        output, folder = self.options.output, ShardFolder(self.options.output)
        size = -(-_SHARD_ROWS // self.options.batch_size) * self.options.batch_size
        with folder.opened(self._settings() if identities else {}):
            start = time.perf_counter()
            shards, computed = complete(folder, identities, size, compute, self.monitor.advance)
            seconds = time.perf_counter() - start
            features = self._features(folder, shards, texts, text_embeds)
            bad = tuple(finding for shard in shards for finding in shard.bad)
            if bad and self.options.on_error == "fail":  # an earlier run with --on-error skip left them out
                raise InputError(unreadable(bad))
            if bad and not features.names:
                raise InputError(f"embed: nothing readable: {listed(bad)}; give what docs/inputs.md says")
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
        """Return the settings that must be equal for shards of two runs to be joined in one file."""
        mode = {"mode": self.options.mode} if self.kind == "image" else {}
        return {
            "rows": self.kind,
            "bundle": sha256_file(self.model.bundle.path / "manifest.json")[:16],
            "backend": self.engine.backend(self.kind),
            **mode,
            "dtype": self.options.dtype,
            "batch size": self.options.batch_size,
        }


def _identity(picture: SourcePicture) -> str:
    size, changed = picture.stamp()
    return f"{picture.name} {size} {changed}"


def _shapes(features: Features) -> dict[str, tuple[int, int]]:
    shapes = {f"{features.kind}_embeds": (len(features.names), features.dim)} if features.names else {}
    if features.text_embeds is not None:
        shapes["text_embeds"] = (len(features.text_embeds), features.text_embeds.shape[1])
    return shapes


def _write_bad(output: Path, bad: Sequence[tuple[str, str]]) -> None:
    """Write the list of the inputs left out, or remove that of an earlier run."""
    if bad:
        write_lines(bad_file(output), [{"input": name, "reason": why} for name, why in bad])
    else:
        bad_file(output).unlink(missing_ok=True)
