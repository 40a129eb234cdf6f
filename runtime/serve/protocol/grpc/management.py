"""Triton's management calls over gRPC: shared memory, traces, logs, loading."""

from collections.abc import Callable, Mapping
from typing import Any

from internvl_edge.runtime.serve.protocol import management
from internvl_edge.runtime.serve.protocol.grpc.messages import message

_LOG_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def _no_regions(response: str) -> Callable[[Any], Any]:
    def answer(asked: Any) -> Any:
        management.require_no_region(asked.name)
        return message(response)()

    return answer


def _region_gone(response: str) -> Callable[[Any], Any]:
    """Return a handler that answers as after a successful removal, since there are no regions."""
    return lambda asked: message(response)()


def _refuse_region(asked: Any) -> Any:
    management.refuse_region()


def _refuse_loading(asked: Any) -> Any:
    management.refuse_loading(asked.model_name)


def _trace(asked: Any) -> Any:
    wanted = {name: list(setting.value) or None for name, setting in asked.settings.items()}
    management.require_trace_settings(wanted)
    answer = message("TraceSettingResponse")()
    for name, value in management.TRACE_SETTINGS.items():
        answer.settings[name].value.extend([value] if isinstance(value, str) else value)
    return answer


def _log(asked: Any) -> Any:
    wanted = {name: _value(setting) for name, setting in asked.settings.items()}
    management.require_log_settings(wanted)
    answer = message("LogSettingsResponse")()
    for name, value in management.LOG_SETTINGS.items():
        setattr(answer.settings[name], _LOG_FIELDS[type(value)], value)
    return answer


def _value(setting: Any) -> Any:
    field = setting.WhichOneof("parameter_choice")
    return getattr(setting, field) if field else None


MANAGED: Mapping[str, Callable[[Any], Any]] = {
    "RepositoryModelLoad": _refuse_loading,
    "RepositoryModelUnload": _refuse_loading,
    "SystemSharedMemoryStatus": _no_regions("SystemSharedMemoryStatusResponse"),
    "SystemSharedMemoryRegister": _refuse_region,
    "SystemSharedMemoryUnregister": _region_gone("SystemSharedMemoryUnregisterResponse"),
    "CudaSharedMemoryStatus": _no_regions("CudaSharedMemoryStatusResponse"),
    "CudaSharedMemoryRegister": _refuse_region,
    "CudaSharedMemoryUnregister": _region_gone("CudaSharedMemoryUnregisterResponse"),
    "TraceSetting": _trace,
    "LogSettings": _log,
}
"""Name of a call -> its handler."""
