"""What holds of one graph stands in the table: code elsewhere does not ask for a graph's name."""

from structure import GRAPHS, naming_graphs, sources

from internvl_edge.export.models.graphs import GRAPH_NAMES


def test_hardly_any_file_compares_with_the_name_of_a_graph() -> None:
    assert frozenset(GRAPH_NAMES) == GRAPHS
    found = naming_graphs(sources())
    assert len(found) <= 4, found
