"""Feature files: .npz, .npy with a JSONL of names beside it, or Parquet; each is renamed into place when complete."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.names import printable
from internvl_edge.runtime.inputs.tables.arrow import pyarrow_parquet
from internvl_edge.runtime.outputs.files import output_file, require_writable
from internvl_edge.runtime.outputs.strict_json import json_line

Kind = Literal["image", "text"]
"""Kind of the rows' inputs; it gives the names of columns and arrays: `image`, `image_embeds`."""

_GROUP_ROWS = 8192
"""Smallest number of rows in a Parquet row group: 25 MB for rows of 768 fp32 values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The content of a feature file: rows ``[N, D]`` in parts on disk, so that memory never holds all of them."""

    kind: Kind
    names: Sequence[str]
    """Name of each row."""
    parts: Sequence[Path]
    """The .npy files ``[n, D]`` with the rows, in order."""
    dim: int
    dtype: str
    texts: Sequence[str] = ()
    """Texts beside pictures, which only an .npz can hold."""
    text_embeds: np.ndarray | None = None
    """Features of `texts`, ``[T, D]``."""

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the parts as memory-mapped arrays."""
        for part in self.parts:
            yield np.load(part, mmap_mode="r")


def require_format(output: Path) -> None:
    """Check that the format of `output` is known and its library installed, before anything is computed.

    Raises:
        InputError: The suffix names no format, or the file cannot be written.
        BackendError: The format is Parquet and pyarrow is not installed.
    """
    if output.suffix not in _WRITERS:
        raise InputError(f"{output}: no known format; name it {', '.join('*' + suffix for suffix in _WRITERS)}")
    require_writable([output])
    if output.suffix == ".npy":
        require_writable([names_file(output)])
    if output.suffix == ".parquet":
        pyarrow_parquet()


def write_features(output: Path, features: Features) -> None:
    """Write `features` in the format of `output`; an existing file is replaced when the new one is complete.

    Raises:
        InputError: The file cannot be written.
    """
    _WRITERS[output.suffix](output, features)


def names_file(output: Path) -> Path:
    """Return the path of the JSONL of names beside an .npy."""
    return output.with_suffix(".names.jsonl")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object on each line.

    Raises:
        InputError: The file cannot be written.
    """
    with output_file(path) as file:
        for row in rows:
            file.write(json_line(row).encode())


def _write_npz(output: Path, features: Features) -> None:
    arrays: dict[str, Any] = {}
    if features.names:
        kind = features.kind
        arrays |= {f"{kind}s": np.array(features.names), f"{kind}_embeds": np.concatenate(list(features.arrays()))}
    if features.text_embeds is not None:
        arrays |= {"texts": np.array(list(features.texts)), "text_embeds": features.text_embeds}
    with output_file(output) as file:
        np.savez(file, **arrays)


def _write_npy(output: Path, features: Features) -> None:
    """Write the names, then the rows, so that an existing .npy always has its names."""
    write_lines(names_file(output), [{"row": row, features.kind: name} for row, name in enumerate(features.names)])
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(features.dtype)),
        "fortran_order": False,
        "shape": (len(features.names), features.dim),
    }
    with output_file(output) as file:  # not memory-mapped: a full disk would raise SIGBUS
        np.lib.format.write_array_header_1_0(file, header)
        for part in features.arrays():
            file.write(part.tobytes())


def _write_parquet(output: Path, features: Features) -> None:
    """Write two columns, such as `image` and `image_embeds`; the second holds lists of fixed length."""
    arrow, parquet = pyarrow_parquet()
    values = arrow.list_(arrow.from_numpy_dtype(np.dtype(features.dtype)), features.dim)
    schema = arrow.schema([(features.kind, arrow.string()), (f"{features.kind}_embeds", values)])
    with output_file(output) as file, parquet.ParquetWriter(file, schema) as writer:
        start = 0
        for rows in _joined(features.arrays()):
            names = [printable(name) for name in features.names[start : start + len(rows)]]
            start += len(rows)
            embeds = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), features.dim)
            writer.write_table(arrow.Table.from_arrays([arrow.array(names, arrow.string()), embeds], schema=schema))


def _joined(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows of `parts` in blocks of at least `_GROUP_ROWS`, except for the last."""
    block: list[np.ndarray] = []
    for part in parts:
        block.append(part)
        if sum(map(len, block)) >= _GROUP_ROWS:
            yield np.concatenate(block)
            block = []
    if block:
        yield np.concatenate(block)


_WRITERS: dict[str, Callable[[Path, Features], None]] = {
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".parquet": _write_parquet,
}
