"""Ray Serve's configuration file of a bundle, for `serve deploy`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.outputs.files import require_writable, write_text
from internvl_edge.runtime.outputs.strict_json import json_text
from internvl_edge.runtime.serve.options import ServeOptions

_APPLICATION = "internvl_edge.runtime.ray.application:build"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServeOptions:
    """Number and resources of replicas; `ServeOptions` has the settings of each replica's engine."""

    replicas: int = 1
    cpus: float = 1
    """Number of CPUs of a replica."""
    gpus: float = 0
    """Number of GPUs of a replica."""
    http: int = 8000
    """Port of HTTP."""


def write_config(bundle: Path, output: Path, engine: ServeOptions, options: RayServeOptions) -> None:
    """Write the configuration of one application to the new file `output`; it refers to the bundle by its path.

    Raises:
        BundleError: `bundle` is damaged.
        InputError: `output` exists, or cannot be written.
    """
    require_writable([output])
    Bundle.open(bundle)
    arguments = {
        "bundle": str(bundle.resolve()),
        "replicas": options.replicas,
        "cpus": options.cpus,
        "gpus": options.gpus,
        "backend": engine.backend,
        "max_batch": engine.max_batch,
        "max_delay_ms": engine.max_delay_ms,
        "queue": engine.queue,
        "deadline_ms": engine.deadline_ms,
        "bf16": engine.bf16,
        **({} if engine.threads is None else {"threads": engine.threads}),
    }
    if output.is_file():
        raise InputError(f"{output}: is there already; remove it, or name another file")
    write_text(output, _yaml(arguments, options.http))


def _yaml(arguments: Mapping[str, Any], http: int) -> str:
    """Return the configuration as YAML; values are written as JSON, which YAML includes."""
    lines = [f"      {name}: {json_text(value)}" for name, value in arguments.items()]
    return "\n".join(
        [
            "http_options:",
            "  host: 0.0.0.0",
            f"  port: {http}",
            "applications:",
            "  - name: internvl",
            "    route_prefix: /",
            f"    import_path: {_APPLICATION}",
            "    args:",
            *lines,
            "",
        ]
    )
