"""The target of a plan: the requested one, that of its record, or that of the plan itself."""

import logging
from pathlib import Path

from internvl_edge.runtime.bundle.engines import ENGINE_FILE, EngineRecord
from internvl_edge.runtime.errors import BundleError, EngineError
from internvl_edge.runtime.inspect.plan.schedule import read_plan
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.targets import find_target

logger = logging.getLogger(__name__)


def target_of(plan: Path, name: str | None = None) -> Target:
    """Return the target `name`; without a name that of ``engine.json`` beside `plan`, otherwise the plan's own SM.

    Raises:
        EngineError: The name is unknown, `plan` is no plan, or it names no SM.
    """
    if name is not None:
        return find_target(name)
    if (plan.parent / ENGINE_FILE).exists():
        try:
            return find_target(EngineRecord.load(plan.parent).target)
        except BundleError as error:
            logger.info("%s; the plan itself says for which SM it is", error)
    found = read_plan(plan).sm
    if found is None:
        raise EngineError(f"{plan}: does not tell its device; name one with --target")
    return find_target(f"sm_{found}")
