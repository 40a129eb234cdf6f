"""X-rays as one HTML page that opens offline: for each plan answers, the picture of a block, then every kernel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from internvl_edge.export.xray.launches import CATEGORIES
from internvl_edge.export.xray.picture import block_picture, time_picture
from internvl_edge.export.xray.report import PlanXray
from internvl_edge.export.xray.text import (
    attention_answer,
    duration,
    pictured,
    quantization_answer,
    shapes_answer,
    size,
    work,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What stands above several plans; a list of them with links follows."""

    title: str
    lines: tuple[str, ...]
    mark: str
    """Tells the page from that of other plans; not shown."""


def render_page(plans: Mapping[str, PlanXray], cover: Cover | None = None) -> str:
    """Return the page of `plans`, by heading; it loads nothing from anywhere. Without a `cover` it is of one plan."""
    if cover is None and len(plans) != 1:
        raise ValueError(f"{len(plans)} plans on a page without a cover")
    environment = Environment(
        loader=PackageLoader("internvl_edge.export.xray"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"size": size, "work": work, "duration": duration}
    return environment.get_template("engine.html").render(
        cover=cover,
        sections=[_section(heading, found) for heading, found in plans.items()],
        categories=_categories(*plans.values()),
    )


def _section(heading: str, found: PlanXray) -> dict[str, Any]:
    """Return what the template shows of one plan."""
    block, kernels = pictured(found)
    return {
        "heading": heading,
        "found": found,
        "block": block,
        "pictured": len(kernels),
        "picture": block_picture(kernels, block),
        "time": time_picture(kernels),
        "categories": _categories(found),
        "marked": any(kernel.quantizes or kernel.dequantizes for kernel in found.kernels),
        "shapes": shapes_answer(found),
        "attention": attention_answer(found),
        "fused": "no" if not found.fused_attention else "in part" if found.unfused_attention else "yes",
        "quantization": quantization_answer(found),
    }


def _categories(*plans: PlanXray) -> list[str]:
    return [name for name in CATEGORIES if any(kernel.category == name for found in plans for kernel in found.kernels)]
