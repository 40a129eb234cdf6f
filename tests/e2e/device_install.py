"""Run commands as on a device: every package is hidden but the base, the extra `cpu` and what they need themselves.

As a script it takes command lines as JSON, one after the other in one process, and prints what became of each.
"""

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, packages_distributions, requires
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import PROJECT

EXTRAS = ("cpu",)


class _Filtered:
    """An import finder that does not know the packages that a device lacks."""

    def __init__(self, finder: Any, modules: frozenset[str], kept: set[str]) -> None:
        self._finder, self._modules, self._kept = finder, modules, kept

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] in self._modules:
            return None
        found: ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return found

    def find_distributions(self, context: Any) -> Iterator[Distribution]:
        for each in getattr(self._finder, "find_distributions", lambda _: ())(context):
            if canonicalize_name(each.name) in self._kept:
                yield each


def hide_all_but_the_base() -> frozenset[str]:
    """Make this process fail to import what a device lacks; return those names."""
    kept = _needed([*PROJECT["dependencies"], *(r for e in EXTRAS for r in PROJECT["optional-dependencies"][e])])
    kept.add(canonicalize_name("internvl-edge"))
    hidden = frozenset(
        module
        for module, owners in packages_distributions().items()
        if not kept & {canonicalize_name(owner) for owner in owners}
    )
    sys.meta_path[:] = [_Filtered(finder, hidden, kept) for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.split(".")[0] in hidden]:
        del sys.modules[name]
    return hidden


def run_commands(lines: Sequence[Sequence[str]]) -> list[dict[str, object]]:
    """Return exit code, output and traceback, if there is one, of each command line."""
    from click.testing import CliRunner

    from internvl_edge.cli import main

    found = []
    for line in lines:
        done = CliRunner().invoke(main, line)
        unexpected = done.exception is not None and not isinstance(done.exception, SystemExit)
        text = "".join(traceback.format_exception(done.exception)) if unexpected else ""
        found.append({"code": done.exit_code, "stdout": done.stdout, "stderr": done.stderr, "traceback": text})
    return found


def _needed(requirements: Sequence[str]) -> set[str]:
    """Return the names of `requirements` and of all that these require."""
    found: set[str] = set()
    queue = [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            queue += [Requirement(text) for text in requires(name) or ()]
    return found


if __name__ == "__main__":
    hide_all_but_the_base()
    print(json.dumps(run_commands(json.loads(sys.argv[1]))))
