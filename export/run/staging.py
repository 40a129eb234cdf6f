"""Write an output folder under a temporary name and rename it when complete.

Finished stages survive a killed process; an error removes the temporary folder.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from internvl_edge.runtime.bundle.bundle import is_utf8
from internvl_edge.runtime.errors import EdgeError, ExportError
from internvl_edge.runtime.outputs.folders import folder_at

logger = logging.getLogger(__name__)

_STAGES = "stages.json"
_SHOWN = 6
"""Most changed parts of a key that a message lists."""


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

    def key(self) -> dict[str, str] | None:
        """Return the digests of the key of the run that began this folder, or None if no run has."""
        found = self._read()["key"]
        return found if isinstance(found, dict) else None

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record atomically."""
        temporary = self.folder / f"{_STAGES}.tmp"
        temporary.write_text(json.dumps(record))
        temporary.replace(self.folder / _STAGES)

    def _read(self) -> dict[str, Any]:
        path = self.folder / _STAGES
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            found = None
        return found if isinstance(found, dict) and {"key", "stages"} <= set(found) else {"key": None, "stages": {}}


@contextmanager
def staged(
    output: Path, key: Mapping[str, object], kind: str = "a bundle", marker: str = "manifest.json"
) -> Iterator[Staging]:
    """Yield a folder to write into; on success it is renamed to `output` and replaces an earlier one.

    A kill or Ctrl-C leaves the folder. The next run continues it if its `key` is the same; otherwise it logs what
    changed and starts again. An error removes the folder. Only one process at a time can write to `output`. The key
    maps the name of everything that the result depends on to a value with a stable `repr`.

    Raises:
        ExportError: `output` exists without a file `marker`, another process is writing it, or the disk is full.
        InputError: `output` is no folder.
    """
    output = folder_at(output)
    if output.exists() and not (output / marker).exists() and any(output.iterdir()):
        raise ExportError(f"{output}: exists and is not {kind}: no {marker} in it; choose another folder for --output")
    if not is_utf8(output):
        raise ExportError(f"{output}: is no UTF-8, which ONNX Runtime does not open; choose another --output")
    folder = output.with_name(f".{output.name}.partial")
    with _only_writer(output):
        staging, digests = Staging(folder), _digests(key)
        if (before := staging.key()) != digests:
            _log_changes(output, before, digests)
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if staging.key() is None:
                staging.write({"key": digests, "stages": {}})
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


def _digests(key: Mapping[str, object]) -> dict[str, str]:
    return {name: key_of(value) for name, value in key.items()}


def _log_changes(output: Path, before: Mapping[str, str] | None, after: Mapping[str, str]) -> None:
    """Log which parts of the key keep an unfinished run from being continued."""
    if before is None:
        return
    names = [name for name in {**after, **before} if before.get(name) != after.get(name)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    logger.warning(
        "%s: starting anew: since the unfinished run these changed: %s%s", output, ", ".join(names[:_SHOWN]), more
    )


@contextmanager
def _only_writer(output: Path) -> Iterator[None]:
    """Lock `output` against other processes; a second one gets an error at once.

    The lock is an flock, which the kernel releases when the process ends in any way. It is on a file beside the staging
    folder, because the folder itself is renamed and removed; the file is open for writing, as network file systems
    require. The holder deletes the file at the end. A process that had opened it before then locks a deleted file,
    notices that, and opens it again. A killed process leaves the file; the next run deletes it.

    Raises:
        ExportError: another process is writing `output`, or the file cannot be made or locked.
    """
    lock = output.with_name(f".{output.name}.lock")
    with _locked(lock, output):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path, output: Path) -> IO[str]:
    """Return the open file `lock`; it is locked until it is closed."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with ExitStack() as closing:
                file = closing.enter_context(lock.open("a"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock, file):
                    closing.pop_all()
                    return file
    except BlockingIOError as error:
        raise ExportError(
            f"{output}: another process is writing it; wait for it to end, or choose another folder"
        ) from error
    except OSError as error:
        raise ExportError(f"{lock}: {error.strerror}; choose another --output, where files can be locked") from error


def _is_at(path: Path, file: IO[str]) -> bool:
    """Return whether the open `file` is the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _swap(folder: Path, output: Path) -> None:
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.replace(old)
    folder.replace(output)
    shutil.rmtree(old, ignore_errors=True)
