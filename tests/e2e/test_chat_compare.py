"""`internvl-edge compare` of chat bundles: the language model block by block, in both cuts of the tower."""

from pathlib import Path

import pytest

from internvl_edge.export.check.compare import CompareOptions, compare
from tests.exports import Exports
from tests.golden_chat import golden_chat
from tests.tolerances import SAME_GRAPH_DB


@pytest.mark.parametrize(
    ("case", "graphs", "blocks"),
    [
        ("c1", None, {"vision": 3, "llm": 3}),
        (
            "c5",
            ("vision", "connector", "llm", "embed_tokens"),
            {"vision": 3, "connector": 0, "llm": 3, "embed_tokens": 0},
        ),
    ],
)
def test_every_block_equals_the_checkpoint(
    exports: Exports, case: str, graphs: tuple[str, ...] | None, blocks: dict[str, int]
) -> None:
    golden = golden_chat(case)
    bundle = exports.bundle(golden.checkpoint, dtype="fp32", graphs=graphs)
    options = CompareOptions(data=golden.folder / "pictures", sample_count=2)
    found = compare(Path(bundle), golden.checkpoint, options)
    assert {graph.graph: len(graph.blocks) for graph in found.graphs} == blocks
    assert min(item.sqnr_db for graph in found.graphs for item in (*graph.blocks, *graph.outputs)) > SAME_GRAPH_DB
    language = next(graph for graph in found.graphs if graph.graph == "llm")
    assert language.fed_by == ("connector" if graphs else "vision")
    assert len(language.caches) == 2 * blocks["llm"]
    assert compare(Path(bundle), Path(bundle), options).first_divergence is None
