"""Exports and calibrations that many tests read: each is made once in a run, by the worker that asks first."""

import fcntl
import hashlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl_edge.export.calibrate import CalibrateOptions, calibrate
from internvl_edge.export.compile import ExportReport, export_bundle
from internvl_edge.export.run.options import ExportOptions


class Exports:
    """A folder of results that pytest's workers share. A test that changes one of them takes a copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.traces = folder / "traces"
        """Folder of the traced graphs."""

    def report(self, checkpoint: Path, **settings: Any) -> tuple[Path, ExportReport]:
        """Return the bundle that `export` makes of a checkpoint with these options, and the report it gave."""
        options = ExportOptions(checkpoint=str(checkpoint), output=Path("bundle"), **settings)
        folder, report = self.once(options, lambda folder: export_bundle(replace(options, output=folder / "bundle")))
        return folder / "bundle", report

    def bundle(self, checkpoint: Path, **settings: Any) -> Path:
        """Return the bundle that `export` makes of a checkpoint with these options."""
        return self.report(checkpoint, **settings)[0]

    def ranges(self, checkpoint: Path, **settings: Any) -> Path:
        """Return the ranges that `calibrate` writes for a checkpoint with these options."""
        options = CalibrateOptions(checkpoint=str(checkpoint), output=Path("ranges"), **settings)
        folder, _ = self.once(options, lambda folder: calibrate(replace(options, output=folder / "ranges")))
        return folder / "ranges"

    def once(self, options: object, make: Callable[[Path], Any]) -> tuple[Path, Any]:
        """Return the folder of a result and what `make` returned, which another worker may have called."""
        folder = self._folder / hashlib.sha256(repr(options).encode()).hexdigest()[:16]
        returned = folder / "returned.pickle"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it if the worker dies
            if not returned.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
                folder.mkdir()
                returned.write_bytes(pickle.dumps(make(folder)))
            return folder, pickle.loads(returned.read_bytes())
