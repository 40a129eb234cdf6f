"""X-rays as one HTML page that needs no network: for each plan key figures, a picture of a block, and all kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from internvl_edge.runtime.inspect.plan.launches import CATEGORIES
from internvl_edge.runtime.inspect.xray.markup import Markup, filled, joined
from internvl_edge.runtime.inspect.xray.plan_section import fused_word, header_cells, plan_section
from internvl_edge.runtime.inspect.xray.text import duration, pictured, size
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray

_TEMPLATE = "templates/engine.html"
_COLUMNS = ("plan", "launches", "a block", "attention fused", "FLOPs in 8 bits", "read and written", "predicted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """The head of a page with several plans; a list of the plans with links follows it."""

    title: str
    lines: tuple[str, ...]
    mark: str
    """A hidden text that distinguishes the page from pages of other plans."""


def render_page(plans: Mapping[str, PlanXray], cover: Cover | None = None) -> str:
    """Return the page of `plans` by heading; without a `cover` there must be one plan. It loads no other resource."""
    if cover is None and len(plans) != 1:
        raise ValueError(f"{len(plans)} plans on a page without a cover")
    template = Template(files(str(__package__)).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    heading, found = next(iter(plans.items()))
    return template.substitute(
        mark=filled('<meta name="plans" content="{}">\n', cover.mark) if cover is not None else "",
        title=escape(cover.title if cover is not None else f"X-ray of {found.plan}"),
        heading=escape(cover.title if cover is not None else f"X-ray of {heading}"),
        colours=_colours(plans),
        body=_covered(plans, cover) if cover is not None else plan_section(found, "h2", folded=False),
    )


def _colours(plans: Mapping[str, PlanXray]) -> Markup:
    used = {kernel.category for found in plans.values() for kernel in found.kernels}
    rule = "svg .c-{0} {{ fill: var(--{0}); }} .k-{0}::marker {{ color: var(--{0}); }}\n"
    return joined(filled(rule, name) for name in CATEGORIES if name in used)


def _covered(plans: Mapping[str, PlanXray], cover: Cover) -> Markup:
    """Return the cover's lines, the list of plans, and a section for each plan."""
    head = header_cells(_COLUMNS)
    rows = joined(_row(index, heading, found) for index, (heading, found) in enumerate(plans.items(), 1))
    sections = (
        filled(
            '<section class="plan" id="plan-{}">\n<h2>{}<a href="#top">all plans</a></h2>\n{}</section>\n',
            index,
            heading,
            plan_section(found, "h3", folded=True),
        )
        for index, (heading, found) in enumerate(plans.items(), 1)
    )
    return filled(
        '{}<nav class="wide" aria-label="Plans"><table><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table></nav>\n{}',
        joined(filled('<p class="soft">{}</p>\n', line) for line in cover.lines),
        head,
        rows,
        joined(sections),
    )


def _row(index: int, heading: str, found: PlanXray) -> Markup:
    link = filled('<td><a href="#plan-{}">{}</a></td>', index, heading)
    if not found.kernels:
        return filled('<tr>{}<td class="l bad" colspan="6">not readable</td></tr>\n', link)
    block, _ = pictured(found)
    cells = (
        found.total.launches,
        found.middle.launches if found.middle is not None else "–",
        fused_word(found) if block else "–",
        "–" if found.quantized_share is None else f"{found.quantized_share * 100:.1f} %",
        size(found.total.bytes),
        duration(found.total.predicted_ms),
    )
    return filled("<tr>{}{}</tr>\n", link, joined(filled("<td>{}</td>", cell) for cell in cells))
