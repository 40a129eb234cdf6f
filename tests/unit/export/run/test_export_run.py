"""One export, opened: which graphs it has, its types, and how weights get into the bundle."""

from pathlib import Path

import pytest

from internvl_edge.export.run.export_run import open_run
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.errors import EdgeError, ExportError
from internvl_edge.runtime.progress import Silent


def options(folder: Path, **changed: object) -> ExportOptions:
    return ExportOptions(checkpoint=str(folder / "checkpoint"), output=Path("bundle"), **changed)  # type: ignore[arg-type]


def test_all_graphs_that_the_weights_allow_in_the_order_of_the_table(golden_a: Path) -> None:
    whole = open_run(options(golden_a), Silent())
    assert whole.graphs == ("vision", "query", "text", "decoder", "itm")
    assert open_run(options(golden_a, graphs=("text", "vision")), Silent()).graphs == ("vision", "text")


def test_a_graph_without_weights_is_named_with_those_that_have_some(golden_a: Path) -> None:
    with pytest.raises(ExportError) as caught:
        open_run(options(golden_a, graphs=("vision", "connector")), Silent())
    assert str(caught.value) == (
        f"--graphs connector: {golden_a / 'checkpoint'} has no weights for it; it has vision, query, text, decoder, itm"
    )


@pytest.mark.parametrize(
    ("precision", "weights", "way"), [(None, "link", "link"), (None, "auto", "auto"), ("int8", "link", "copy")]
)
def test_codes_are_written_and_never_linked(golden_a: Path, precision: str | None, weights: str, way: str) -> None:
    asked = options(golden_a, precision=precision, weights=weights, data="random" if precision else None)
    assert open_run(asked, Silent()).weights == way


@pytest.mark.parametrize(("dtype", "name"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_the_type_of_what_is_not_quantized(golden_a: Path, dtype: str, name: str) -> None:
    assert open_run(options(golden_a, dtype=dtype), Silent()).dtype == name


def test_samples_and_the_model_have_the_size_of_the_export(golden_a: Path) -> None:
    stored = open_run(options(golden_a), Silent()).config.pictures.image_size
    found = open_run(options(golden_a, image_size=2 * stored, sample_count=3), Silent())
    assert found.config.pictures.image_size == 2 * stored
    assert found.samples.pixel_values.shape == (3, 3, 2 * stored, 2 * stored)


def test_a_target_that_lacks_the_precision_is_refused(golden_a: Path) -> None:
    with pytest.raises(EdgeError, match="fp8"):
        open_run(options(golden_a, target="orin-nano", precision="fp8"), Silent())
