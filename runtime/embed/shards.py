"""Shards of features with digests, in a folder beside the output, from which a killed run is resumed."""

import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.errors import InputError

_SETTINGS = "settings.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Shard:
    """The record of consecutive rows on disk."""

    names: tuple[str, ...]
    """Name of each row."""
    bad: tuple[tuple[str, str], ...]
    """Name and reason of each input without a row."""
    inputs: str
    """Digest of the inputs' identities."""
    sha256: str
    """Digest of the file of rows."""


@dataclass(frozen=True, slots=True)
class Part:
    """The features of one batch."""

    rows: np.ndarray
    """Features ``[n, D]``."""
    names: tuple[str, ...]
    """Name of each row."""
    bad: tuple[tuple[str, str], ...] = ()
    """Name and reason of each input without a row."""

    @property
    def count(self) -> int:
        """Return the number of inputs, those without a row included."""
        return len(self.names) + len(self.bad)


Compute = Callable[[Sequence[int]], Generator[Part, None, None]]
"""Function that yields the features of inputs, given by their indices, in order and in batches that divide a shard."""


class ShardFolder:
    """The folder of an unfinished output: ``.NAME.partial`` beside it.

    A shard consists of its rows (.npy) and its record (.json); each is renamed into place when complete, the record
    last. Only one process at a time may use the folder.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.parent / f".{output.name}.partial"
        self._output = output

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder, and create it or check that its settings are equal; the lock ends with the process.

        Raises:
            InputError: The folder has other settings, cannot be used, or is in use by another process.
        """
        try:
            self.path.mkdir(exist_ok=True)
            lock = (self.path / _LOCK).open("a")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be used ({error}); remove it, or give another output") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"{self._output}: another run is writing it, or its folder takes no locks ({error.strerror});"
                    " wait for that run, or give another output"
                ) from error
            self._require(settings)
            yield

    def _require(self, settings: Mapping[str, Any]) -> None:
        path = self.path / _SETTINGS
        if not (path.exists() and any(self._records())):
            _write(path, json.dumps(settings, indent=2).encode())
            return
        try:
            begun = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove the folder, then run again") from error
        changed = [
            f"{key} {begun.get(key)} instead of {value}" for key, value in settings.items() if begun.get(key) != value
        ]
        if changed:
            raise InputError(
                f"{self._output}: {self.path.name} holds an unfinished run with other settings ({', '.join(changed)});"
                " finish that run with its settings, or remove the folder"
            )

    def load(self, index: int, inputs: str) -> Shard | None:
        """Return a shard, or None if it is incomplete, damaged or of other inputs."""
        try:
            record = json.loads(self._record(index).read_bytes())
            bad = tuple((name, why) for name, why in record["bad"])
            shard = Shard(tuple(record["names"]), bad, record["inputs"], record["sha256"])
            whole = sha256_file(self.rows_file(index)) == shard.sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return shard if whole and shard.inputs == inputs else None

    def save(self, index: int, parts: Sequence[Part], inputs: str) -> Shard:
        """Write one shard and return its record.

        Raises:
            InputError: The shard cannot be written.
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
        """Return the path of the .npy with the rows of a shard."""
        return self.path / f"{index:06d}.npy"

    def rows(self) -> int:
        """Return the number of rows in finished shards."""
        return sum(len(json.loads(record.read_bytes())["names"]) for record in self._records())

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)

    def _records(self) -> Iterator[Path]:
        return self.path.glob("[0-9]*.json")

    def _record(self, index: int) -> Path:
        return self.path / f"{index:06d}.json"


def complete(
    folder: ShardFolder, identities: Sequence[str], size: int, compute: Compute, advance: Callable[[int], object]
) -> tuple[list[Shard], int]:
    """Compute the shards that `folder` lacks; return all shards in order, and the number of computed inputs.

    Args:
        folder: The opened folder.
        identities: A text for each input that changes when the input does.
        size: Number of inputs in a shard.
        compute: Function that computes the features of inputs.
        advance: Function that is called with the number of further inputs that are done.
    """
    ranges = [range(first, min(first + size, len(identities))) for first in range(0, len(identities), size)]
    digests = [_digest(identities[inputs.start : inputs.stop]) for inputs in ranges]
    shards: dict[int, Shard] = {}
    for index, digest in enumerate(digests):
        if (shard := folder.load(index, digest)) is not None:
            shards[index] = shard
            advance(len(ranges[index]))
    missing = [index for index in range(len(ranges)) if index not in shards]
    inputs = [entry for index in missing for entry in ranges[index]]
    with closing(compute(inputs)) as stream:
        for index in missing:
            parts = list(_of_one_shard(stream, len(ranges[index]), advance))
            shards[index] = folder.save(index, parts, digests[index])
    return [shards[index] for index in range(len(ranges))], len(inputs)


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
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room, then run again") from error
