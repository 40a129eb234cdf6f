"""Install every extra with the lowest and the newest versions it allows, and run its commands on the demo.

    python scripts/check_dependencies.py [--extra serve] [--versions lowest] [--python python3.12]

It needs a network and some minutes for each extra. torch has the version of constraints.txt in all environments, since
other builds of it bring gigabytes of CUDA; tests/unit/export/test_torch_names.py holds its lower bound by the names
taken from it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from extra_checks import EXTRAS, ROOT, Place, environment

EMOJI = ROOT / "examples" / "emoji"
PIN = re.compile(r"^([A-Za-z0-9._-]+)(\[[^\]]*\])?\s*>=\s*([0-9][^,;\s]*)(.*)$")


def main() -> int:
    """Check the extras that the command line names, and print a table; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", choices=EXTRAS, help="Check this one; repeat. Default: all.")
    parser.add_argument("--versions", action="append", choices=["lowest", "newest"], help="Default: both.")
    parser.add_argument("--together", action="store_true", help="One environment for all of them, which is quicker.")
    parser.add_argument("--python", default=sys.executable, help="Interpreter of the environments.")
    parser.add_argument("--bundle", type=Path, help="Bundle of examples/emoji. Default: one that is exported first.")
    options = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(prefix="check-dependencies-") as name:
        work = Path(name)
        pictures = work / "pictures"
        shutil.unpack_archive(EMOJI / "data" / "test.zip", pictures)
        for path in sorted(pictures.iterdir()):
            if path.name not in ("0011.png", "0053.png"):
                path.unlink()
        wheel = _wheel(options.python, work)
        bundle = options.bundle or _bundle(options.python, wheel, work)
        extras = tuple(options.extra or EXTRAS)
        for group in (extras,) if options.together else ((extra,) for extra in extras):
            for versions in options.versions or ("lowest", "newest"):
                started = time.monotonic()
                outcome = _check(options.python, wheel, group, versions, bundle.resolve(), pictures, work)
                name, seconds = ",".join(group), time.monotonic() - started
                print(f"{name:<10} {versions:<7} {seconds:5.0f} s  {outcome.splitlines()[0]}", flush=True)
                if outcome != "ok":
                    failed.append(f"{name} {versions}: {outcome}")
    print("\n".join(["", *failed]))
    return 1 if failed else 0


def _check(
    python: str, wheel: Path, extras: tuple[str, ...], versions: str, bundle: Path, pictures: Path, work: Path
) -> str:
    """Return ``ok``, or the message of the failure."""
    place = Place(bin=work / "env" / "bin", bundle=bundle, pictures=pictures, work=work / "cwd")
    place.work.mkdir()
    try:
        pins = _lowest(extras) if versions == "lowest" else []
        beside = [other for extra in extras for other in EXTRAS[extra].beside]
        _install(python, place.bin.parent, wheel, dict.fromkeys((*extras, *beside)), pins)
        for extra in extras:
            EXTRAS[extra].check(replace(place, work=_folder(place.work / extra)))
    except AssertionError as error:
        return str(error)
    finally:
        shutil.rmtree(place.bin.parent, ignore_errors=True)
        shutil.rmtree(place.work)
    return "ok"


def _wheel(python: str, work: Path) -> Path:
    _call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", work / "dist", ROOT)
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def _bundle(python: str, wheel: Path, work: Path) -> Path:
    """Export the demo in an environment of its own."""
    _install(python, work / "env", wheel, ("export",), [])
    _call(work / "env" / "bin" / "internvl-edge", "export", EMOJI / "checkpoint", "-o", work / "bundle")
    shutil.rmtree(work / "env")
    return work / "bundle"


def _install(python: str, env: Path, wheel: Path, extras: Iterable[str], pins: Sequence[str]) -> None:
    _call(python, "-m", "venv", env)
    constraints = env / "constraints.txt"
    constraints.write_text("\n".join([*pins, *_torch()]) + "\n")
    wanted = ",".join(extra for extra in extras if extra != "base")
    pip = (env / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    _call(*pip, "install", "-c", constraints, f"internvl-edge[{wanted}] @ {wheel.as_uri()}")
    _call(*pip, "check")


def _torch() -> Iterator[str]:
    """Yield the pin of torch."""
    return (line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch=="))


def _lowest(extras: Sequence[str]) -> list[str]:
    """Return the lower bounds of the base and of `extras` as pins."""
    base, optional = _required()
    required = [*base, *(line for extra in extras for line in optional.get(extra, ()))]
    pins = []
    for line in required:
        found = PIN.match(line)
        if found is None:  # a further limit on a package that another line names
            continue
        name, _, version, rest = found.groups()
        marker = rest.partition(";")[2].strip()
        if name != "torch":
            pins.append(f"{name}=={version}" + (f"; {marker}" if marker else ""))
    return pins


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _required() -> tuple[list[str], dict[str, list[str]]]:
    """Return what the base requires, and what each extra does."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"], project["optional-dependencies"]


def _call(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise AssertionError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")


if __name__ == "__main__":
    sys.exit(main())
