"""A folder grows in a temporary sibling and is renamed when whole; finished stages outlive a kill, not an error."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.errors import EdgeError, ExportError

_STAGES = "stages.json"


@dataclass(frozen=True, slots=True)
class Staging:
    """The temporary folder and the record of its finished stages."""

    folder: Path

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return what `stage` recorded when it finished, or None if it has to run."""
        result: dict[str, Any] | None = self._read()["stages"].get(stage)
        return result

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Record that `stage` is done; its files must be in place."""
        record = self._read()
        self.write({**record, "stages": {**record["stages"], stage: result}})

    def key(self) -> str | None:
        """Return the key of the run that began this folder, or None if none has."""
        found: str | None = self._read()["key"]
        return found

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record in one step."""
        temporary = self.folder / f"{_STAGES}.tmp"
        temporary.write_text(json.dumps(record))
        temporary.replace(self.folder / _STAGES)

    def _read(self) -> dict[str, Any]:
        path = self.folder / _STAGES
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"key": None, "stages": {}}
        return found


@contextmanager
def staged(output: Path, key: str, kind: str = "a bundle", marker: str = "manifest.json") -> Iterator[Staging]:
    """Give a folder to build in; on success it becomes `output`, replacing an earlier one in one rename.

    A kill or Ctrl-C leaves the folder; the next run takes it up if its `key`, the digest of everything that the result
    depends on, is the same, and starts anew if not. An error removes it.

    Raises:
        ExportError: `output` exists and is nothing of ours (has no file `marker`), or the disk is full.
    """
    if output.exists() and not (output / marker).exists() and (output.is_file() or any(output.iterdir())):
        raise ExportError(f"{output}: exists and is not {kind}: no {marker} in it; choose another folder for --output")
    folder = output.with_name(f".{output.name}.partial")
    staging = Staging(folder)
    if staging.key() != key:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if staging.key() is None:
            staging.write({"key": key, "stages": {}})
        yield staging
        (folder / _STAGES).unlink(missing_ok=True)
        _swap(folder, output)
    except EdgeError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ExportError(
            f"{error.filename or output}: {error.strerror}; free space or choose another --output"
        ) from error


def key_of(*parts: object) -> str:
    """Return a digest of `parts`; every one must have a stable `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def code_digest() -> str:
    """Return a digest of this package's own code, so that what another version began is not taken up."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _swap(folder: Path, output: Path) -> None:
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.replace(old)
    folder.replace(output)
    shutil.rmtree(old, ignore_errors=True)
