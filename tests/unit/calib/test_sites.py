"""What a site says of its linears."""

from internvl_edge.calib.sites import Site


def test_weights_are_those_of_all_linears_in_order() -> None:
    paths = ("block.gate_proj", "block.up_proj")
    site = Site(name=paths[0], linears=paths, tower="qllama", block=1, kind="mlp", channels=4, fold=None)
    assert site.weights == ("block.gate_proj.weight", "block.up_proj.weight")
