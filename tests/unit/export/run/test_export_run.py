"""One export, opened: which graphs it has, its types, and how weights get into the bundle."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from internvl_edge.export.run.export_run import open_run
from internvl_edge.export.run.options import DEFAULT_CONTEXT, ExportOptions
from internvl_edge.runtime.errors import CheckpointError, EdgeError, ExportError
from internvl_edge.runtime.progress import Silent
from tests.golden_chat import GOLDEN_CHAT, golden_chat


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


def test_the_tower_exports_without_the_language_models_files(tmp_path: Path) -> None:
    """`--graphs vision` needs none of them; by default they are a part of the checkpoint."""
    source, last = golden_chat("c1").checkpoint, "model-00002-of-00002.safetensors"
    folder = shutil.copytree(source, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(source / "model.safetensors")
    places = {name: last if name.startswith("language_model.") else "vision.safetensors" for name in weights}
    tower = {name: value for name, value in weights.items() if places[name] != last}
    save_file(tower, folder / "vision.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    asked = ExportOptions(checkpoint=str(folder), output=tmp_path / "bundle", graphs=("vision",))
    run = open_run(asked, Silent())
    assert run.graphs == ("vision",)
    assert run.config.without_llm == f"no file holds its weights; {last} are absent"
    with pytest.raises(CheckpointError, match=f"absent shards: {last}; download them, or export the tower without"):
        open_run(replace(asked, graphs=None), Silent())


def test_the_graph_of_a_language_model_without_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = shutil.copytree(golden_chat("c1").checkpoint, tmp_path / "checkpoint")
    content = json.loads((folder / "config.json").read_text()) | {
        "llm_config": {"architectures": ["GptOssForCausalLM"], "hidden_size": 72}
    }
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ExportError) as caught:
        open_run(options(tmp_path, graphs=("vision", "llm")), Silent())
    assert str(caught.value) == (
        f"--graphs llm: the language model of {folder} has no graph, as GptOssForCausalLM is a mixture of experts with "
        "attention sinks, which the graphs have not; give a dense one, as InternVL3_5-8B; or export vision alone"
    )
    assert open_run(options(tmp_path), Silent()).graphs == ("vision",)


def test_the_tensors_of_an_export_are_those_that_its_graphs_may_use(tmp_path: Path) -> None:
    """Files of a language model that no graph reads are neither shared with the bundle nor scanned."""
    shutil.copytree(golden_chat("c1").checkpoint, tmp_path / "checkpoint")
    whole, tower = (open_run(options(tmp_path, graphs=graphs), Silent()) for graphs in (None, ("vision", "connector")))
    assert {tensor.name for tensor in whole.tensors} == set(whole.checkpoint.tensors)
    assert {tensor.name.split(".")[0] for tensor in tower.tensors} == {"vision_model", "mlp1"}


def test_a_chat_checkpoint_gives_tiles_and_a_language_model() -> None:
    run = open_run(options(GOLDEN_CHAT / "c1"), Silent())
    assert run.graphs == ("vision", "llm")
    assert run.conversation is not None
    assert run.conversation.chat.template == "internvl2_5"
    assert run.conversation.tokenizer is not None
    apart = open_run(options(GOLDEN_CHAT / "c1", graphs=("connector", "vision", "embed_tokens")), Silent())
    assert apart.graphs == ("vision", "connector", "embed_tokens")
    assert apart.conversation is None


def test_the_context_is_at_most_that_of_the_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN_CHAT / "c1" / "checkpoint", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for length, context in ((1024, 1024), (16384, DEFAULT_CONTEXT)):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": length}))
        assert open_run(options(tmp_path), Silent()).max_context == context
    assert open_run(options(tmp_path, max_context=16384), Silent()).max_context == 16384
    with pytest.raises(ExportError) as caught:
        open_run(options(tmp_path, max_context=16385), Silent())
    assert str(caught.value) == "--max-context 16385: model_max_length of the tokenizer is 16384; lower it"


def test_an_unknown_field_of_the_tokenizer_may_be_accepted(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN_CHAT / "c1" / "checkpoint", tmp_path / "checkpoint")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "normalizer": "nfkc"}))
    name = "tokenizer_config.normalizer"
    with pytest.raises(CheckpointError, match=f"--accept-config {name}"):
        open_run(options(tmp_path), Silent())
    assert open_run(options(tmp_path, accept_config=(name,)), Silent()).accepted_fields == (name,)


def test_a_missing_tokenizer_is_refused_for_a_language_model_alone(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN_CHAT / "c1" / "checkpoint", tmp_path / "checkpoint")
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer \(tokenizer\.json, vocab\.json with merges\.txt"):
        open_run(options(tmp_path), Silent())
    assert open_run(options(tmp_path, graphs=("vision",)), Silent()).conversation is None
