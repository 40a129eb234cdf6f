"""The features of many pictures or texts to a file: `internvl-edge run embed`."""

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
"""About: a multiple of the batch. What a killed run loses at most; 0.8 MB of 768 fp32 values each."""


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


def written_files(output: Path) -> list[Path]:
    """Return the files that a run may write or remove."""
    return [output, bad_file(output), *([names_file(output)] if output.suffix == ".npy" else [])]


def embed(
    model: "InternVL",
    pictures: Sequence[SourcePicture],
    options: EmbedOptions,
    texts: Sequence[str] = (),
    monitor: Monitor = UNMONITORED,
    engine: Engine | None = None,
) -> EmbedReport:
    """Write the raw features of pictures, and of some texts beside them into an .npz; a killed run is taken up.

    `monitor` hears how many more pictures are done. `engine` computes them; None: `model`, in this process.

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
    engine = engine or LocalEngine(model, monitor.stages)
    return _Run(model, engine, "text", options, monitor).write(list(map(str, texts)), engine.texts(texts, options))


def kept_line(output: Path) -> str:
    """Return a line that says what an interrupted run left behind."""
    folder = ShardFolder(output)
    if not (rows := folder.rows()):
        return f"{output}: interrupted, nothing was finished yet; run it again"
    return f"{output}: interrupted, {rows} rows are kept in {folder.path.name}; the same command goes on there"


@dataclass(frozen=True, slots=True)
class _Run:
    """One output."""

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
        """Compute what is missing, and write it all."""
        output, folder = self.options.output, ShardFolder(self.options.output)
        size = -(-_SHARD_ROWS // self.options.batch_size) * self.options.batch_size
        with folder.opened(self._settings() if identities else {}):
            start = time.perf_counter()
            shards, computed = complete(folder, identities, size, compute, self.monitor.advance)
            seconds = time.perf_counter() - start
            features = self._features(folder, shards, texts, text_embeds)
            bad = tuple(finding for shard in shards for finding in shard.bad)
            if bad and self.options.on_error == "fail":  # of an earlier run that skipped them
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
        """Return what must be the same for shards of two runs to go into one file."""
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
    """List the inputs left out; a list of an earlier run goes."""
    if bad:
        write_lines(bad_file(output), [{"input": name, "reason": why} for name, why in bad])
    else:
        bad_file(output).unlink(missing_ok=True)
