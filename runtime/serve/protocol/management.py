"""Triton's management calls (shared memory, traces, logs, loading), answered as by a Triton without these features."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from internvl_edge.runtime.serve.protocol.checks import quoted
from internvl_edge.runtime.serve.refusals import BadRequestError

TRACE_SETTINGS: Mapping[str, "str | list[str]"] = MappingProxyType(
    {
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    }
)
"""Settings of Triton's own traces, which are off; `--traces` sends OpenTelemetry's instead."""
LOG_SETTINGS: Mapping[str, "str | bool | int"] = MappingProxyType(
    {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
)


def require_no_region(name: str) -> None:
    """Check that a status request names no region of shared memory, since there are none.

    Raises:
        BadRequestError: A region is named.
    """
    if name:
        raise BadRequestError(f"there is no region {quoted(name)} of shared memory; it is not offered here")


def refuse_region() -> None:
    """Refuse to register a region of shared memory.

    Raises:
        BadRequestError: Always.
    """
    raise BadRequestError("shared memory is not offered; send tensors as binary data")


def require_trace_settings(wanted: Mapping[str, Any]) -> None:
    """Check that a request does not change the settings of traces.

    Raises:
        BadRequestError: It changes a setting, or names an unknown one.
    """
    _require_same("trace", wanted, TRACE_SETTINGS, "serve with --traces for OpenTelemetry's")


def require_log_settings(wanted: Mapping[str, Any]) -> None:
    """Check that a request does not change the settings of logs.

    Raises:
        BadRequestError: It changes a setting, or names an unknown one.
    """
    _require_same("log", wanted, LOG_SETTINGS, "the server logs to its stderr")


def refuse_loading(model: str) -> None:
    """Refuse to load or unload a model.

    Raises:
        BadRequestError: Always.
    """
    raise BadRequestError(
        f"loading and unloading of models, here {quoted(model)}, is not offered; the server keeps the bundle that it"
        " was started with"
    )


def _require_same(kind: str, wanted: Mapping[str, Any], known: Mapping[str, Any], remedy: str) -> None:
    changed = [
        name for name, value in wanted.items() if name not in known or value not in (known[name], [known[name]], None)
    ]
    if changed:
        listed = ", ".join(map(quoted, changed))
        raise BadRequestError(f"changing {kind} settings ({listed}) is not offered; {remedy}")
