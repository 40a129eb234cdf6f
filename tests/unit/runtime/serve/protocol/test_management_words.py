"""What is refused around models, whatever the protocol: the same words, and everything at once."""

from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.management import (
    LOG_SETTINGS,
    TRACE_SETTINGS,
    refuse_loading,
    refuse_region,
    require_log_settings,
    require_no_region,
    require_trace_settings,
)
from internvl_edge.runtime.serve.refusals import BadRequestError


@pytest.mark.parametrize("wanted", [{}, dict(TRACE_SETTINGS), {"trace_rate": ["1000"]}, {"trace_level": None}])
def test_traces_that_stay_as_they_are(wanted: dict[str, Any]) -> None:
    require_trace_settings(wanted)


@pytest.mark.parametrize("wanted", [{}, dict(LOG_SETTINGS), {"log_info": [True]}, {"log_file": None}])
def test_logs_that_stay_as_they_are(wanted: dict[str, Any]) -> None:
    require_log_settings(wanted)


def test_every_change_is_named() -> None:
    with pytest.raises(BadRequestError, match=r"\('trace_rate', 'other'\) is not offered; serve with --traces"):
        require_trace_settings({"trace_rate": "1", "trace_level": ["OFF"], "other": None})
    with pytest.raises(BadRequestError, match=r"\('log_info'\) is not offered; the server logs to its stderr"):
        require_log_settings({"log_info": False})


def test_regions_and_loading() -> None:
    require_no_region("")
    with pytest.raises(BadRequestError, match="there is no region 'mine' of shared memory"):
        require_no_region("mine")
    with pytest.raises(BadRequestError, match="send tensors as binary data"):
        refuse_region()
    with pytest.raises(BadRequestError, match="here 'm', is not offered"):
        refuse_loading("m")
