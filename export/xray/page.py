"""An X-ray as one HTML page that opens offline: answers, the picture of a block, then every kernel."""

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


def render_page(found: PlanXray) -> str:
    """Return the page of `found`; it loads nothing from anywhere."""
    environment = Environment(
        loader=PackageLoader("internvl_edge.export.xray"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"size": size, "work": work, "duration": duration}
    block, kernels = pictured(found)
    return environment.get_template("engine.html").render(
        found=found,
        block=block,
        pictured=len(kernels),
        picture=block_picture(kernels, block),
        time=time_picture(kernels),
        categories=[name for name in CATEGORIES if any(kernel.category == name for kernel in found.kernels)],
        marked=any(kernel.quantizes or kernel.dequantizes for kernel in found.kernels),
        shapes=shapes_answer(found),
        attention=attention_answer(found),
        quantization=quantization_answer(found),
    )
