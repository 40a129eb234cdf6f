"""Features on their way to a file: shards with digests, in a folder beside it that a killed run leaves to the next."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle import sha256_file
from internvl_edge.runtime.errors import InputError

_SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows that follow each other, as they lie on disk."""

    names: tuple[str, ...]
    """One a row."""
    bad: tuple[tuple[str, str], ...]
    """Name and reason of each input without a row."""
    inputs: str
    """Digest of what was read."""
    sha256: str
    """Of the file of rows."""


@dataclass(frozen=True, slots=True)
class Part:
    """The features of one batch."""

    rows: np.ndarray
    """``[n, D]``."""
    names: tuple[str, ...]
    """One a row."""
    bad: tuple[tuple[str, str], ...] = ()
    """Name and reason of each input without a row."""

    @property
    def count(self) -> int:
        """Return how many inputs there were."""
        return len(self.names) + len(self.bad)


Compute = Callable[[Sequence[int]], Generator[Part, None, None]]
"""The features of inputs by their indices, in order, in batches that divide a shard."""


class ShardFolder:
    """The unfinished state of one output: ``.NAME.partial`` beside it.

    A shard is its rows (.npy) and its record (.json), each renamed into place when whole, the record last.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.parent / f".{output.name}.partial"
        self._output = output

    def open(self, settings: Mapping[str, Any]) -> None:
        """Take up what lies there, or begin.

        Raises:
            InputError: what lies there was begun with other settings, or cannot be written.
        """
        path = self.path / _SETTINGS
        try:
            self.path.mkdir(exist_ok=True)
            if not path.exists():
                _write(path, json.dumps(settings, indent=2).encode())
                return
            begun = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be used ({error}); remove it, or give another output") from error
        changed = [
            f"{key} {begun.get(key)} instead of {value}" for key, value in settings.items() if begun.get(key) != value
        ]
        if changed:
            raise InputError(
                f"{self._output}: {self.path.name} holds an unfinished run with other settings ({', '.join(changed)});"
                " finish that run with its settings, or remove the folder"
            )

    def load(self, index: int, inputs: str) -> Shard | None:
        """Return a shard that is whole and of these inputs, or None: it is to be computed again."""
        try:
            record = json.loads(self._record(index).read_bytes())
            bad = tuple((name, why) for name, why in record["bad"])
            shard = Shard(tuple(record["names"]), bad, record["inputs"], record["sha256"])
            whole = sha256_file(self.rows_file(index)) == shard.sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return shard if whole and shard.inputs == inputs else None

    def save(self, index: int, parts: Sequence[Part], inputs: str) -> Shard:
        """Write one shard and return it.

        Raises:
            InputError: it cannot be written.
        """
        content = io.BytesIO()
        rows = [part.rows for part in parts if part.names]
        np.save(content, np.concatenate(rows) if rows else np.empty((0, 0)))
        _write(self.rows_file(index), content.getvalue())
        shard = Shard(
            names=tuple(name for part in parts for name in part.names),
            bad=tuple(finding for part in parts for finding in part.bad),
            inputs=inputs,
            sha256=hashlib.sha256(content.getbuffer()).hexdigest(),
        )
        _write(self._record(index), json.dumps(asdict(shard)).encode())
        return shard

    def rows_file(self, index: int) -> Path:
        """Return the .npy with the rows of a shard."""
        return self.path / f"{index:06d}.npy"

    def rows(self) -> int:
        """Return how many rows of finished shards there are."""
        return sum(len(json.loads(record.read_bytes())["names"]) for record in self.path.glob("[0-9]*.json"))

    def remove(self) -> None:
        """Remove the folder, when the output stands."""
        shutil.rmtree(self.path)

    def _record(self, index: int) -> Path:
        return self.path / f"{index:06d}.json"


def complete(
    folder: ShardFolder, identities: Sequence[str], size: int, compute: Compute, advance: Callable[[int], object]
) -> list[Shard]:
    """Return the shards of `size` inputs each, in order: those that `folder` has, and the others computed.

    `identities` tell when an input has changed since its shard was written. `advance` hears how many more are done.
    """
    ranges = [range(first, min(first + size, len(identities))) for first in range(0, len(identities), size)]
    digests = [_digest(identities[inputs.start : inputs.stop]) for inputs in ranges]
    shards: dict[int, Shard] = {}
    for index, digest in enumerate(digests):
        if (shard := folder.load(index, digest)) is not None:
            shards[index] = shard
            advance(len(ranges[index]))
    missing = [index for index in range(len(ranges)) if index not in shards]
    with closing(compute([entry for index in missing for entry in ranges[index]])) as stream:
        for index in missing:
            parts = list(_of_one_shard(stream, len(ranges[index]), advance))
            shards[index] = folder.save(index, parts, digests[index])
    return [shards[index] for index in range(len(ranges))]


def _of_one_shard(stream: Iterator[Part], count: int, advance: Callable[[int], object]) -> Iterator[Part]:
    done = 0
    while done < count:
        part = next(stream)
        done += part.count
        advance(part.count)
        yield part


def _digest(identities: Sequence[str]) -> str:
    whole = hashlib.sha256()
    for identity in identities:
        whole.update(f"{len(identity)} {identity}\n".encode(errors="surrogatepass"))
    return whole.hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room, then run again") from error
