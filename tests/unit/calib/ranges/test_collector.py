"""Statistics of a block while samples pass: by graph, by channel, without padding."""

import numpy as np
import pytest
import torch

from internvl_edge.calib.ranges.collector import KEPT_ROWS, Collector
from internvl_edge.calib.sites import Site

QKV = Site(
    name="block.q_proj",
    linears=("block.q_proj", "block.k_proj"),
    tower="qllama",
    block=0,
    kind="qkv",
    channels=4,
    fold=None,
)


@pytest.fixture
def collector() -> Collector:
    return Collector([QKV], {"text": 4, "decoder": 2})


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def test_graphs_are_kept_apart_and_a_site_is_observed_once(collector: Collector, rng: np.random.Generator) -> None:
    first, second, other = (tensor(rng, 2, 3, 4) for _ in range(3))
    for graph, x in (("text", first), ("text", second), ("decoder", other)):
        collector.enter(graph, 2, None)
        collector.linear("block.q_proj", x)
        collector.linear("block.k_proj", x * 100)  # reads the same tensor in a model: the first is enough
        collector.linear("block.unknown", x * 100)
    found = collector.statistics()
    assert set(found) == {("text", "block.q_proj"), ("decoder", "block.q_proj")}
    text = found["text", "block.q_proj"]
    np.testing.assert_array_equal(text.amax, torch.cat([first, second]).abs().amax(dim=(0, 1)))
    assert text.magnitudes.total == 48
    assert text.curve[-1] == text.largest
    np.testing.assert_array_equal(found["decoder", "block.q_proj"].amax, other.abs().amax(dim=(0, 1)))


def test_padding_is_not_observed(collector: Collector, rng: np.random.Generator) -> None:
    valid = torch.tensor([[True, True, True], [True, False, False]])
    x = tensor(rng, 2, 3, 4)
    x[~valid] = 1e6
    q = x.view(2, 3, 2, 2).transpose(1, 2)
    collector.enter("decoder", 2, valid)
    collector.linear("block.q_proj", x)
    collector.attention("block.attn", q, q, q, None)
    collector.leave("block", x)
    found = collector.statistics()
    for name in ("block.q_proj", "block.attn.q", "block.attn.k", "block.attn.v", "block.residual"):
        np.testing.assert_array_equal(found["decoder", name].amax, x[valid].abs().amax(dim=0), err_msg=name)
        assert found["decoder", name].counted_rows == 4


def test_vision_states_have_no_padding(collector: Collector, rng: np.random.Generator) -> None:
    vision = tensor(rng, 2, 5, 4)
    collector.enter("decoder", 2, torch.tensor([[True, False], [True, False]]))
    collector.linear("block.q_proj", vision)
    assert collector.statistics()["decoder", "block.q_proj"].counted_rows == 10


def test_attention_is_observed_by_channel_and_its_probabilities_by_head(
    collector: Collector, rng: np.random.Generator
) -> None:
    q, k, v = tensor(rng, 2, 3, 4, 8), tensor(rng, 2, 3, 5, 8), tensor(rng, 2, 3, 5, 8)
    bias = torch.zeros(2, 1, 4, 5)
    bias[:, :, :, 0] = -3e4
    collector.enter("text", 2, None)
    collector.attention("block.attn", q, k, v, bias)
    found = {name: seen for (_, name), seen in collector.statistics().items()}
    for name, values in (("q", q), ("k", k), ("v", v)):
        seen = found[f"block.attn.{name}"]
        np.testing.assert_array_equal(seen.amax.reshape(3, 8), values.abs().amax(dim=(0, 2)))
        assert len(seen.rows) == 0
    scores = np.einsum("bhqd,bhkd->hbqk", q.double(), k.double()) / np.sqrt(8) + bias.numpy()[None, :, 0]
    probabilities = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    seen = found["block.attn.probabilities"]
    np.testing.assert_allclose(seen.amax, probabilities.max(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(seen.mean, probabilities.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert seen.magnitudes.counts[0] == 2 * 3 * 4, "what is masked has no probability"


def test_the_rows_kept_of_all_samples_are_a_fixed_number(rng: np.random.Generator) -> None:
    collector = Collector([QKV], {"text": 4})
    for _ in range(4):
        collector.enter("text", 1, None)
        collector.linear("block.q_proj", tensor(rng, 1, 500, 4))
        collector.leave("block", tensor(rng, 1, 500, 4))
    found = collector.statistics()
    assert found["text", "block.q_proj"].rows.shape == (KEPT_ROWS, 4)
    assert len(found["text", "block.residual"].rows) == 0
