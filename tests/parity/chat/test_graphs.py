"""The graphs of a chat checkpoint in torch and on ONNX Runtime, against recorded outputs of the reference."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from internvl_edge.export.dialects.dialect import FEWEST_LAUNCHES, PORTABLE, Dialect
from internvl_edge.export.models.graph_modules import embed_tokens, llm, tiles
from internvl_edge.export.models.graph_modules.specs import GraphOptions
from internvl_edge.export.models.internvit import resize_position_table
from internvl_edge.export.models.internvl import InternVLModel
from tests.golden_chat import GOLDEN_CHAT, golden_chat
from tests.parity.chat.decoding import Decoded, Graph, decoded, prompt_embeds
from tests.parity.chat.loading import loaded, onnx_graph, torch_graph
from tests.tolerances import CHAT_LAST_STATE, CHAT_LOGITS, CHAT_STATES, CHAT_VIT_EMBEDS, GOLDEN_FP32

CHECKPOINTS = sorted(path.relative_to(GOLDEN_CHAT).as_posix() for path in GOLDEN_CHAT.glob("c*/checkpoint*"))
CHUNK = 16
RUNS = [(folder, run) for folder in CHECKPOINTS for run in golden_chat(folder[:2]).runs]
LONG = [(folder, run) for folder, run in RUNS if run in ("long", "cross", "batch")]
BACKENDS = [pytest.param(torch_graph, id="torch"), pytest.param(onnx_graph, id="onnx")]
Backend = Callable[[str, str], Graph]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_embeddings_of_tiles(folder: str, backend: Backend) -> None:
    """c3 takes the fourth state from the end and has the first version of the shuffle."""
    golden, graph = golden_chat(folder[:2]), backend(folder, "vision")
    pictured = [run for run in golden.runs if f"{run}.vit_embeds" in golden.tensors]
    assert "single" in pictured
    for run in pictured:
        found = graph({"pixel_values": golden.tensors[f"{run}.pixel_values"]})["vit_embeds"]
        _require_near(found, golden.tensors[f"{run}.vit_embeds"], CHAT_VIT_EMBEDS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("folder", "run"), RUNS)
def test_greedy_answers(folder: str, run: str, backend: Backend) -> None:
    """Steps of `long` and `cross` have angles of their own length, and their cached keys keep those of theirs."""
    _require_recorded(folder, run, _decoded(backend, folder, run))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("folder", "run"), LONG)
def test_prompts_in_chunks(folder: str, run: str, backend: Backend) -> None:
    """Every chunk has the length of the whole prompt, as in one call; chunks of a padded row may be padding alone."""
    _require_recorded(folder, run, _decoded(backend, folder, run, CHUNK))


@pytest.mark.parametrize("dialect", [PORTABLE, FEWEST_LAUNCHES], ids=["portable", "fewest launches"])
@pytest.mark.parametrize(("folder", "run"), [("c1/checkpoint", "batch"), ("c6/checkpoint", "cross")])
def test_dialects_of_tensorrt(folder: str, run: str, dialect: Dialect) -> None:
    """Grouped attention is written out without repeated keys, and rotations without tables."""
    model, golden = loaded(folder), golden_chat(folder[:2])
    found = decoded(onnx_graph(folder, "llm", dialect), model.language, golden, run, model.table, CHUNK)
    _require_recorded(folder, run, found)


@pytest.mark.parametrize("folder", CHECKPOINTS)
@pytest.mark.parametrize("run", ["single", "batch"])
def test_hidden_states_and_logits_of_all_rows(folder: str, run: str) -> None:
    golden, states = golden_chat(folder[:2]), _states(folder, run)
    rows = golden.rows(run)
    counts = golden.tensors[f"{run}.attention_mask"][:, rows] > 0
    recorded = golden.tensors[f"{run}.hidden_states"]
    assert len(states) == len(recorded) + 1
    for index, state in enumerate(recorded):
        last = index == len(recorded) - 1
        _require_near(states[index][:, rows][counts], state[counts], CHAT_LAST_STATE if last else CHAT_STATES)
    _require_near(states[-1][:, rows][counts], golden.tensors[f"{run}.logits"][counts], CHAT_LOGITS)


@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_states_of_the_tower_after_each_block(folder: str) -> None:
    golden = golden_chat(folder[:2])
    states = golden.tensors["single.vision_hidden_states"]
    with torch.no_grad():
        pixels = torch.from_numpy(golden.tensors["single.pixel_values"])
        found = loaded(folder).module().vision_model(pixels, range(len(states)))
    for index, state in enumerate(states):
        _require_near(found[index].numpy(), state, GOLDEN_FP32)


@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_a_tower_at_another_picture_size(folder: str) -> None:
    golden, model = golden_chat(folder[:2]), loaded(folder).module().vision_model
    pixels = torch.from_numpy(golden.tensors["other_size.pixel_values"])
    patch = loaded(folder).config.vision.patch_size
    table = model.embeddings.position_embedding
    resized = resize_position_table(table.data, (pixels.shape[2] // patch, pixels.shape[3] // patch))
    model.embeddings.position_embedding = torch.nn.Parameter(resized)
    with torch.no_grad():
        last = model(pixels, (len(model.encoder.layers),))[len(model.encoder.layers)]
    _require_near(last.numpy(), golden.tensors["other_size.vision_last_hidden"], GOLDEN_FP32)


@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_embeddings_of_ids_are_rows_of_the_table(folder: str) -> None:
    """The table of c5 is the head too."""
    ids = np.array([[3, 1, 500], [0, 2, 2]])
    found = onnx_graph(folder, "embed_tokens")({"input_ids": ids})["inputs_embeds"]
    np.testing.assert_array_equal(found, loaded(folder).table[ids])


@pytest.mark.parametrize("module", [llm, tiles, embed_tokens])
def test_parameters_of_a_graph_have_the_names_of_the_model(module: object) -> None:
    config = loaded("c1/checkpoint").config
    with torch.device("meta"):
        model = InternVLModel(config)
        graph = module.build(GraphOptions(config=config), model)  # type: ignore[attr-defined]
    assert set(dict(graph.named_parameters())) <= set(dict(model.named_parameters()))


def _decoded(backend: Backend, folder: str, run: str, chunk: int | None = None) -> Decoded:
    model = loaded(folder)
    return decoded(backend(folder, "llm"), model.language, golden_chat(folder[:2]), run, model.table, chunk)


def _require_recorded(folder: str, run: str, found: Decoded) -> None:
    golden = golden_chat(folder[:2])
    np.testing.assert_array_equal(found.ids, golden.tensors[f"{run}.greedy_ids"])
    recorded = golden.tensors[f"{run}.step_logits"]
    logits = found.logits if recorded.shape[1] == found.logits.shape[1] else found.logits[:, [0, 1, -1]]
    _require_near(logits, recorded, CHAT_LOGITS)
    if f"{run}.keys" in golden.tensors:
        rows = golden.rows(run)
        counts = golden.tensors[f"{run}.attention_mask"][:, rows] > 0
        for mine, name in ((found.keys, "keys"), (found.values, "values")):
            kept, theirs = (np.moveaxis(x, 3, 2) for x in (mine[:, :, :, rows], golden.tensors[f"{run}.{name}"]))
            _require_near(kept[:, counts], theirs[:, counts], CHAT_STATES)


@torch.no_grad()
def _states(folder: str, run: str) -> list[np.ndarray]:
    """Return the embeddings, the states after each layer but the last, the last one normed, and the logits."""
    golden, loaded_model = golden_chat(folder[:2]), loaded(folder)
    model, config = loaded_model.module(), loaded_model.language
    embeds = torch.from_numpy(prompt_embeds(golden, run, loaded_model.table))
    mask, positions = (
        torch.from_numpy(golden.tensors[f"{run}.{name}"]).long() for name in ("attention_mask", "position_ids")
    )
    states = [embeds]
    for layer in model.language_model.model.layers[:-1]:
        layer.register_forward_hook(lambda _, __, output: states.append(output[0]))
    graph = llm.LlmGraph(model, config, torch.float32)
    context = graph.context(mask, positions, positions.max()[None] + 1, 0)
    empty = torch.zeros(len(embeds), config.num_kv_heads, 0, config.head_dim)
    last, _ = model.language_model.model(embeds, context, [(empty, empty)] * config.num_layers)
    found = [*states, model.language_model.model.norm(last), model.language_model.logits(last)]
    return [state.numpy() for state in found]


def _require_near(found: np.ndarray, recorded: np.ndarray, atol: float) -> None:
    assert found.shape == recorded.shape
    worst = np.abs(found.astype(np.float64) - recorded).max()
    assert worst <= atol, f"differs by {worst:.3g}"
