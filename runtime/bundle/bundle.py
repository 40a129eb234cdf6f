"""Open a bundle on disk and check its files before any of them is loaded."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS
from internvl_edge.runtime.bundle.manifest import FileInfo, Manifest
from internvl_edge.runtime.errors import BundleError

_CHUNK_BYTES = 8 << 20
_HASHING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files have been checked."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Bundle":
        """Open the bundle in folder `path`; with `verify` compare the digest of every file, otherwise its size alone.

        Raises:
            BundleError: files that are missing or not as they were written, all of them named.
        """
        if not is_utf8(path):
            raise BundleError(f"{path}: its path is no UTF-8, which ONNX Runtime does not open; rename the folder")
        manifest = Manifest.load(path / "manifest.json")
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            findings = pool.map(lambda item: _finding(path / item[0], item[0], item[1], verify), manifest.files.items())
            wrong = [finding for finding in findings if finding]
        if wrong:
            raise BundleError(f"{path}: {'; '.join(wrong)}; the bundle was changed after export, export it again")
        return cls(path, manifest)

    def require(self, *graphs: str) -> None:
        """Check that the bundle has `graphs`.

        Raises:
            BundleError: it lacks some, all of them named with the flag that adds them.
        """
        have = list(self.manifest.graphs)
        lacking = [graph for graph in graphs if graph not in have]
        if lacking:
            raise BundleError(
                f"{self.path}: has no graph {', '.join(lacking)} (it has {', '.join(have)});"
                f" export it with --graphs {','.join([*have, *lacking])}"
            )

    def graphs_of(self, *roles: str) -> tuple[str, ...]:
        """Return the names of the graphs with these roles of `runtime.bundle.graph_roles`, in this order.

        Raises:
            BundleError: it lacks some, all of them named as in `require`.
        """
        names = tuple(self.manifest.graph_of(role) or EXPORTED_AS[role] for role in roles)
        self.require(*names)
        return names

    def graph_file(self, graph: str) -> Path:
        """Return the ONNX file of `graph`.

        Raises:
            BundleError: the bundle has no such graph.
        """
        self.require(graph)
        return self.path / self.manifest.graphs[graph].file


def is_utf8(path: Path) -> bool:
    """Return whether a path is valid UTF-8, as libraries need it that take names as UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(path.absolute()))


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _finding(path: Path, name: str, expected: FileInfo, verify: bool) -> str | None:
    """Return what is wrong with one file, or None."""
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected.bytes:
        return f"{name} has {size} bytes instead of {expected.bytes}"
    try:
        found = sha256_file(path) if verify else expected.sha256
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if found != expected.sha256:
        return f"{name} has SHA-256 {found[:12]} instead of {expected.sha256[:12]}"
    return None
