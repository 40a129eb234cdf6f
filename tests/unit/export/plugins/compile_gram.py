"""Compile the small kernel, in a process where Triton does not interpret; prints JSON."""

import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)


def main() -> None:
    """Compile for the SMs that the tests ask about, into the folder that the command line names."""
    from internvl_edge.export.plugins.compile_kernel import compile_kernel, load_kernel, save_kernel
    from internvl_edge.runtime.errors import EngineError
    from tests.unit.export.plugins.gram_kernel import gram_launch

    logging.basicConfig(level=logging.WARNING, format="%(message)s", filename=f"{sys.argv[1]}/warnings.txt")
    folder, launch = Path(sys.argv[1]), gram_launch()
    found = {sm: compile_kernel(launch, sm, folder) for sm in (75, 80, 87, 90, 100, 110, 120, 130)}
    kept = compile_kernel(launch, 80, folder)
    save_kernel(found[87], launch, folder / "kit")
    stored = load_kernel(launch, 87, folder / "kit")
    said = {}
    for name, attempt in {
        "absent": lambda: load_kernel(launch, 90, folder / "kit"),
        "old": lambda: compile_kernel(launch, 70, folder),
        "refused": lambda: compile_kernel(replace(launch, constants={"D": 64, "BM": 48}), 80, folder),
    }.items():
        try:
            attempt()
        except EngineError as error:
            said[name] = str(error)
    told = {sm: asdict(kernel) for sm, kernel in found.items()}
    print(json.dumps({"kernels": told, "kept": kept == found[80], "stored": stored == found[87], "said": said}))


if __name__ == "__main__":
    main()
