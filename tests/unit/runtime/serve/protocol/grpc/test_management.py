"""Triton's calls around models, message by message: what is answered, and what is refused."""

from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.grpc.management import MANAGED
from internvl_edge.runtime.serve.protocol.grpc.messages import message
from internvl_edge.runtime.serve.protocol.management import LOG_SETTINGS, TRACE_SETTINGS
from internvl_edge.runtime.serve.refusals import BadRequestError


def request(call: str, **fields: Any) -> Any:
    name = {"TraceSetting": "TraceSettingRequest", "LogSettings": "LogSettingsRequest"}.get(call, f"{call}Request")
    return message(name)(**fields)


@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_there_is_no_region(kind: str) -> None:
    status, gone = f"{kind}SharedMemoryStatus", f"{kind}SharedMemoryUnregister"
    assert not MANAGED[status](request(status)).regions
    assert MANAGED[gone](request(gone, name="mine")).ByteSize() == 0
    with pytest.raises(BadRequestError, match="there is no region 'mine'"):
        MANAGED[status](request(status, name="mine"))
    with pytest.raises(BadRequestError, match="shared memory is not offered"):
        MANAGED[f"{kind}SharedMemoryRegister"](request(f"{kind}SharedMemoryRegister", name="mine"))


@pytest.mark.parametrize("call", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_models_are_not_loaded(call: str) -> None:
    with pytest.raises(BadRequestError, match="here 'm', is not offered"):
        MANAGED[call](request(call, model_name="m"))


def test_traces_are_reported_and_stay() -> None:
    asked = request("TraceSetting")
    asked.settings["trace_level"].value.append("OFF")
    asked.settings["trace_rate"]  # asked for without a value: to stay as it is
    found = MANAGED["TraceSetting"](asked).settings
    expected = {name: [value] if isinstance(value, str) else list(value) for name, value in TRACE_SETTINGS.items()}
    assert {name: list(setting.value) for name, setting in found.items()} == expected
    asked.settings["trace_rate"].value.append("1")
    with pytest.raises(BadRequestError, match=r"changing trace settings \('trace_rate'\) is not offered"):
        MANAGED["TraceSetting"](asked)


def test_logs_are_reported_and_stay() -> None:
    asked = request("LogSettings")
    asked.settings["log_info"].bool_param = True
    asked.settings["log_file"]
    found = MANAGED["LogSettings"](asked).settings
    told = {name: getattr(setting, setting.WhichOneof("parameter_choice")) for name, setting in found.items()}
    assert told == LOG_SETTINGS
    asked.settings["log_verbose_level"].uint32_param = 1
    with pytest.raises(BadRequestError, match=r"changing log settings \('log_verbose_level'\) is not offered"):
        MANAGED["LogSettings"](asked)
