"""The torch modules against every tensor that the reference implementation recorded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_model import load_model

from internvl_edge.export.models.config import ConnectorConfig, QllamaConfig
from internvl_edge.export.models.connector import patch_grid, pixel_shuffle
from internvl_edge.export.models.graphs import cut_for, graph_spec
from internvl_edge.export.models.internvit import resize_position_table
from internvl_edge.export.models.qllama import Context
from tests.parity.conftest import Loaded
from tests.tolerances import GOLDEN_FP32

Recorded = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=GOLDEN_FP32, rtol=0)


def every_state(tower: torch.nn.Module, pixels: Tensor) -> list[Tensor]:
    count = len(tower.encoder.layers) + 1
    states = tower(pixels, range(count))
    return [states[index] for index in range(count)]


def graph(name: str, loaded: Loaded) -> torch.nn.Module:
    config, model = loaded
    return graph_spec(name, cut_for(config, ("vision", "connector")), model, torch.float32).module.eval()


def test_vision_tower_at_every_depth(model_a: Loaded, recorded_a: Recorded) -> None:
    tower = model_a[1].vision_model
    recorded: dict[str, Tensor] = {}
    names = [name.removeprefix("vit.layer0.") for name in recorded_a if name.startswith("vit.layer0.")]
    assert len(names) >= 7
    hooks = [
        tower.encoder.layers[0]
        .get_submodule(name)
        .register_forward_hook(lambda _, __, output, name=name: recorded.__setitem__(name, output))
        for name in names
    ]
    states = every_state(tower, recorded_a["pixel_values"])
    for hook in hooks:
        hook.remove()
    for name in names:
        close(recorded[name], recorded_a[f"vit.layer0.{name}"])
    for index, state in enumerate(states):
        close(state, recorded_a[f"vit.hidden_states.{index}"])
    close(states[-1], recorded_a["vit.last_hidden_state"])
    close(states[-1][:, 0], recorded_a["vit.pooler_output"])


def test_query_transformer_at_every_depth(model_a: Loaded, recorded_a: Recorded) -> None:
    config, model = model_a
    vision = recorded_a["vit.last_hidden_state"]
    rows = model.query_tokens.expand(3, -1, -1)
    context = Context(positions=torch.arange(8).unsqueeze(0).expand(3, -1), vision_states=vision)
    states = [rows]
    hooks = [
        layer.register_forward_hook(lambda _, __, output: states.append(output[0]))
        for layer in model.qllama.model.layers
    ]
    last, _ = model.qllama.model(rows, context)
    for hook in hooks:
        hook.remove()
    layers = config.need(QllamaConfig).num_layers
    for index in range(layers):
        close(states[index], recorded_a[f"query.hidden_states.{index}"])
    close(model.qllama.model.norm(last), recorded_a[f"query.hidden_states.{layers}"])


def test_features(model_a: Loaded, recorded_a: Recorded) -> None:
    vision, pooled = graph("vision", model_a)(recorded_a["pixel_values"])
    query, states, *_ = graph("query", model_a)(vision)
    close(pooled, recorded_a["image_features.c"])
    close(query, recorded_a["query.clip_projector2"])
    close(states, recorded_a["query.last_hidden_state"])
    close(F.normalize(pooled, dim=-1) + F.normalize(query, dim=-1), recorded_a["image_features.g"])


@pytest.mark.parametrize(
    ("ids", "features"),
    [
        ("text.input_ids", "text.features"),
        ("text80.input_ids", "text80.features"),
        ("quirk.hole_input_ids", "quirk.hole_features"),
    ],
)
def test_text(model_a: Loaded, recorded_a: Recorded, ids: str, features: str) -> None:
    close(graph("text", model_a)(recorded_a[ids]), recorded_a[features])


def test_text_states_even_where_they_are_padding(model_a: Loaded, recorded_a: Recorded) -> None:
    text = graph("text", model_a)
    close(text.hidden_states(recorded_a["text.input_ids"]), recorded_a["text.last_hidden_state"])


def test_a_text_of_padding_alone_is_finite(model_a: Loaded) -> None:
    assert graph("text", model_a)(torch.zeros(2, 6, dtype=torch.int64)).isfinite().all()


def test_matching(model_a: Loaded, recorded_a: Recorded) -> None:
    itm = graph("itm", model_a)
    inputs = recorded_a["vit.last_hidden_state"], recorded_a["text.input_ids"]
    close(itm.per_query(*inputs), recorded_a["itm.head_per_query"])
    close(itm(*inputs), recorded_a["itm.logits"])


def test_prefill_cache_and_logits(model_a: Loaded, recorded_a: Recorded) -> None:
    _, model = model_a
    _, states, *cache = graph("query", model_a)(recorded_a["vit.last_hidden_state"])
    ids = recorded_a["gen.prompt_ids"]
    embeds = torch.cat([model.query_tokens.expand(3, -1, -1), model.qllama.model.embed_tokens(ids)], dim=1)
    close(embeds, recorded_a["gen.prefill_inputs_embeds"])
    close(model.qllama.lm_head(states), recorded_a["gen.prefill_logits"][:, :8])
    decoder = graph("decoder", model_a)
    for length in range(1, ids.shape[1] + 1):  # the last row of every longer chunk is every row of the prefill
        positions = (8 + torch.arange(length)).expand(3, -1)
        logits, *present = decoder(ids[:, :length], torch.ones(3, 8 + length, dtype=torch.int64), positions, *cache)
        close(logits, recorded_a["gen.prefill_logits"][:, 7 + length])
    for layer in range(4):
        close(present[2 * layer], recorded_a[f"gen.past_key.{layer}"])
        close(present[2 * layer + 1], recorded_a[f"gen.past_value.{layer}"])


@pytest.mark.parametrize("case", ["gen", "gen_left"])
def test_step_logits(model_a: Loaded, recorded_a: Recorded, case: str) -> None:
    ids, kept = recorded_a[f"{case}.prompt_ids"], recorded_a[f"{case}.prompt_mask"]
    _, _, *cache = graph("query", model_a)(recorded_a["vit.last_hidden_state"])
    decoder = graph("decoder", model_a)
    mask = torch.cat([torch.ones(3, 8, dtype=torch.int64), kept], dim=1)
    for step in range(12):
        positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)[:, -ids.shape[1] :]
        logits, *cache = decoder(ids, mask, positions, *cache)
        close(logits, recorded_a[f"{case}.step_logits"][:, step])
        ids = recorded_a[f"{case}.sequences"][:, step : step + 1]
        mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.int64)], dim=1)


def test_resized_pictures(golden_a: Path, recorded_a: Recorded) -> None:
    loaded = load_model(golden_a / "checkpoint", image_size=84)
    close(loaded[1].vision_model.embeddings.position_embedding, recorded_a["resized.position_embedding"])
    vision, pooled = graph("vision", loaded)(recorded_a["resized.pixel_values"])
    close(vision, recorded_a["resized.last_hidden_state"])
    close(pooled, recorded_a["resized.image_features.c"])


def test_small_tower_at_every_depth(golden_b: Path, recorded_b: Recorded) -> None:
    for folder in ("checkpoint_vit", "checkpoint_chat"):
        _, model = load_model(golden_b / folder)
        states = every_state(model.vision_model, recorded_b["pixel_values"])
        for index, state in enumerate(states):
            close(state, recorded_b[f"vit.hidden_states.{index}"])
        close(states[-1], recorded_b["vit.last_hidden_state"])
        close(states[-1][:, 0], recorded_b["vit.pooler_output"])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_connector(golden_b: Path, recorded_b: Recorded, version: str) -> None:
    config, model = load_model(golden_b / "checkpoint_chat")
    config = config.with_part(replace(config.need(ConnectorConfig), ps_version=version))
    states = recorded_b["vit.last_hidden_state"]
    close(pixel_shuffle(patch_grid(states), 2, version), recorded_b[f"pixel_shuffle.{version}"])
    close(graph("connector", (config, model))(states), recorded_b[f"connector.{version}"])


def test_connector_on_an_earlier_layer(golden_b: Path, recorded_b: Recorded) -> None:
    config, model = load_model(golden_b / "checkpoint_chat")
    connector = replace(config.need(ConnectorConfig), ps_version="v2", select_layer=-2)
    loaded = config.with_part(connector), model
    (states,) = graph("vision", loaded)(recorded_b["pixel_values"])
    close(graph("connector", loaded)(states), recorded_b["connector.v2.select_layer_-2"])


def test_connector_at_another_size(golden_b: Path, recorded_b: Recorded) -> None:
    config, model = load_model(golden_b / "checkpoint_chat", image_size=84)
    config = config.with_part(replace(config.need(ConnectorConfig), ps_version="v2"))
    (states,) = graph("vision", (config, model))(recorded_b["big.pixel_values"])
    close(states, recorded_b["big.last_hidden_state"])
    close(graph("connector", (config, model))(states), recorded_b["big.connector.v2"])


def test_a_picture_that_is_not_square(golden_b: Path, recorded_b: Recorded) -> None:
    _, model = load_model(golden_b / "checkpoint_vit")
    embeddings = model.vision_model.embeddings
    table = resize_position_table(embeddings.position_embedding, (4, 6))
    embeddings.position_embedding = torch.nn.Parameter(table)
    close(every_state(model.vision_model, recorded_b["rect.pixel_values"])[-1], recorded_b["rect.last_hidden_state"])
