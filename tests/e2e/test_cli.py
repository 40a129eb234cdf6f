"""Commands as a user types them: what they print, what they leave, and one line when something is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import Run
from tests.project import ROOT

Change = Callable[[dict[str, torch.Tensor]], None]


def one_line(done: object, *words: str) -> None:
    """The command failed with exit code 1 and one line that names the thing, the finding and the remedy."""
    text = done.stderr.strip()  # type: ignore[attr-defined]
    assert done.returncode == 1, text  # type: ignore[attr-defined]
    assert len(text.splitlines()) == 1, text
    assert text.startswith("Error: ")
    assert ";" in text, f"no remedy: {text}"
    assert [word for word in words if word not in text] == [], text


@pytest.fixture
def spoiled(golden_a: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the golden checkpoint with its tensors or its config changed."""

    def spoil(change: Change | None = None, **config: object) -> Path:
        folder = shutil.copytree(golden_a / "checkpoint", tmp_path / "checkpoint")
        if change is not None:
            tensors = load_file(folder / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors")
        content = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return folder

    return spoil


class TestExport:
    def test_writes_a_bundle_and_says_how_near_it_is(self, run: Run, golden_b: Path, tmp_path: Path) -> None:
        options = ("--dtype", "bf16", "--graphs", "vision")
        done = run("export", golden_b / "checkpoint_chat", "-o", tmp_path / "b", *options)
        assert done.returncode == 0, done.stderr
        assert "b: vision\n" in done.stdout
        assert "cosine 0.999" in done.stdout
        assert "synthetic pictures" in done.stdout
        assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]
        manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
        assert {"onnx/bf16/vision.onnx", "onnx/bf16/weights.safetensors"} <= set(manifest["files"])

    def test_links_the_checkpoint_on_request_and_says_who_refuses_that(
        self, run: Run, golden_b: Path, tmp_path: Path
    ) -> None:
        checkpoint = shutil.copytree(golden_b / "checkpoint_vit", tmp_path / "checkpoint")
        done = run("export", checkpoint, "-o", tmp_path / "b", "--dtype", "fp32", "--weights", "link")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("onnx 1.23 and later, and with it polygraphy inspect and onnxslim, refuse") == 1
        linked = tmp_path / "b" / "onnx" / "fp32" / "checkpoint-model.safetensors"
        assert linked.samefile(checkpoint / "model.safetensors")
        assert not linked.with_name("weights.safetensors").exists()

    def test_builds_plans_for_a_device_that_is_not_here(self, run: Run, golden_b: Path, tmp_path: Path) -> None:
        apart = ("--graphs", "vision,connector")
        done = run("export", golden_b / "checkpoint_chat", "-o", tmp_path / "b", "--target", "rtx-4090", *apart)
        assert done.returncode == 0, done.stderr
        assert "vision.plan" in done.stdout
        folder = tmp_path / "b" / "engines" / "rtx-4090"
        assert sorted(p.name for p in folder.iterdir()) == ["connector.plan", "engine.json", "vision.plan"]
        record = json.loads((folder / "engine.json").read_text())
        assert (record["flavour"], record["sm"]) == ("tensorrt_rtx", 89)
        (plan,) = record["graphs"]["vision"]["plans"]
        assert plan["bytes"] == (folder / "vision.plan").stat().st_size > 100_000

    def test_from_the_checkout(self, golden_b: Path, tmp_path: Path) -> None:
        arguments = [golden_b / "checkpoint_vit", "-o", tmp_path / "b", "--dtype", "fp32"]
        command = [sys.executable, "cli.py", "export", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "b" / "manifest.json").exists()

    def test_a_tolerance_that_is_missed_leaves_no_bundle(self, run: Run, golden_b: Path, tmp_path: Path) -> None:
        done = run("export", golden_b / "checkpoint_vit", "-o", tmp_path / "b", "--dtype", "fp16", "--atol", "1e-9")
        one_line(done, "vision.vision_states", "allowed 1e-09", "--atol")
        assert list(tmp_path.iterdir()) == []

    def test_nan_weights(self, run: Run, spoiled: Callable[..., Path], tmp_path: Path) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors["vision_model.encoder.layers.0.ls1"][3] = torch.nan

        done = run("export", spoiled(change), "-o", tmp_path / "b", "--graphs", "vision")
        one_line(done, "vision_model.encoder.layers.0.ls1 (1)", "repair")
        assert not (tmp_path / "b").exists()

    def test_missing_extra_and_misshapen_weights_at_once(
        self, run: Run, spoiled: Callable[..., Path], tmp_path: Path
    ) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            del tensors["text_projection"]
            tensors["strange"] = torch.zeros(2)
            tensors["itm_head.bias"] = torch.zeros(3)

        done = run("export", spoiled(change), "-o", tmp_path / "b")
        one_line(done, "text_projection", "strange", "itm_head.bias [3] instead of [2]")
        assert not (tmp_path / "b").exists()

    def test_truncated_weights(self, run: Run, spoiled: Callable[..., Path], tmp_path: Path) -> None:
        weights = (folder := spoiled()) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])
        one_line(run("export", folder, "-o", tmp_path / "b"), "model.safetensors", "download it again")

    def test_config_without_qllama(self, run: Run, spoiled: Callable[..., Path], tmp_path: Path) -> None:
        one_line(run("export", spoiled(qllama_config=None), "-o", tmp_path / "b"), "qllama_config")

    def test_index_that_names_an_absent_shard(self, run: Run, golden_a: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(golden_a / "checkpoint_sharded", tmp_path / "c")
        (folder / "model-00002-of-00007.safetensors").unlink()
        one_line(run("export", folder, "-o", tmp_path / "b"), "model-00002-of-00007.safetensors")

    def test_pickle_with_code(self, run: Run, golden_a: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(golden_a / "checkpoint_bin", tmp_path / "c")
        torch.save({"a": print}, folder / "pytorch_model-00001-of-00007.bin")
        one_line(run("export", folder, "-o", tmp_path / "b"), "pytorch_model-00001-of-00007.bin", "code")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--image-size", "60"], ["--image-size 60", "patch size 14", "56"]),
            (["--feature-layers", "1,7"], ["[7]", "0 to 2"]),
            (["--graphs", "vision,voice"], ["voice", "connector"]),
            (["--graphs", "connector"], ["connector", "no weights"]),
            (["--target", "rtx-4091"], ["rtx-4091", "rtx-4090"]),
        ],
    )
    def test_bad_options(self, run: Run, golden_a: Path, tmp_path: Path, options: list[str], words: list[str]) -> None:
        one_line(run("export", golden_a / "checkpoint", "-o", tmp_path / "b", *options), *words)
        assert list(tmp_path.iterdir()) == []

    def test_unreadable_sample(self, run: Run, golden_b: Path, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "a.png").write_text("no picture")
        options = ["--samples", tmp_path / "pictures"]
        one_line(run("export", golden_b / "checkpoint_vit", "-o", tmp_path / "b", *options), "a.png")
        assert not (tmp_path / "b").exists()

    def test_a_folder_that_is_no_bundle_is_not_replaced(self, run: Run, golden_b: Path, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.txt").write_text("mine")
        one_line(run("export", golden_b / "checkpoint_vit", "-o", tmp_path / "b"), "not a bundle")
        assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"

    def test_nothing_there(self, run: Run, tmp_path: Path) -> None:
        one_line(run("export", tmp_path / "nowhere", "-o", tmp_path / "b"), "nowhere")

    def test_usage_is_exit_code_two(self, run: Run, golden_b: Path) -> None:
        assert run("export", golden_b / "checkpoint_vit").returncode == 2


class TestRun:
    def test_retrieve(self, run: Run, demo_bundle: Path, pictures: Path) -> None:
        texts = ["-t", "downwards button", "-t", "melon", "-t", "flag: Liechtenstein"]
        images = [pictures / "0000.png", pictures / "0001.png", pictures / "0003.png"]
        done = run("run", "retrieve", demo_bundle, *images, *texts, "--json")
        best = [max(row["scores"], key=row["scores"].get) for row in json.loads(done.stdout)]
        assert best == ["downwards button", "flag: Liechtenstein", "melon"]

    def test_classify(self, run: Run, demo_bundle: Path, pictures: Path) -> None:
        labels = ["-l", "flags", "-l", "food & drink", "--template", "an emoji of {}"]
        done = run("run", "classify", demo_bundle, pictures / "0001.png", pictures / "0003.png", *labels)
        lines = done.stdout.splitlines()
        assert lines[1].split(maxsplit=1)[1] == "flags"
        assert lines[4].split(maxsplit=1)[1] == "food & drink"

    def test_caption(self, run: Run, demo_bundle: Path, pictures: Path) -> None:
        done = run("run", "caption", demo_bundle, pictures / "0003.png", "--num-beams", "3")
        assert done.returncode == 0, done.stderr
        path, caption = done.stdout.strip().split(": ", 1)
        assert path.endswith("0003.png")
        assert caption

    def test_embed(self, run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
        output = tmp_path / "features.npz"
        done = run("run", "embed", demo_bundle, pictures / "0003.png", "-t", "melon", "-o", output)
        assert "image_embeds [1, 128]" in done.stdout
        with np.load(output) as arrays:
            assert sorted(arrays) == ["image_embeds", "images", "text_embeds", "texts"]

    def test_unreadable_pictures_all_at_once(self, run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_text("no picture")
        images = [tmp_path / "bad.png", tmp_path / "absent.png", pictures / "0000.png"]
        one_line(run("run", "caption", demo_bundle, *images), "bad.png", "absent.png")

    def test_empty_text(self, run: Run, demo_bundle: Path, pictures: Path) -> None:
        one_line(run("run", "retrieve", demo_bundle, pictures / "0000.png", "-t", " "), "empty")

    def test_a_long_text_is_cut_with_a_warning(self, run: Run, demo_bundle: Path, pictures: Path) -> None:
        done = run("run", "retrieve", demo_bundle, pictures / "0000.png", "-t", "one two three four " * 40)
        assert done.returncode == 0
        assert "cut to 80" in done.stderr

    def test_tampered_bundle(self, run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
        bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
        graph = bundle / "onnx" / "fp32" / "text.onnx"
        content = bytearray(graph.read_bytes())
        content[len(content) // 2] ^= 1
        graph.write_bytes(content)
        one_line(run("run", "caption", bundle, pictures / "0000.png"), "onnx/fp32/text.onnx", "SHA-256")

    def test_bundle_of_a_newer_schema(self, run: Run, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
        bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
        manifest = json.loads((bundle / "manifest.json").read_text()) | {"schema": 99}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        one_line(run("run", "caption", bundle, pictures / "0000.png"), "schema 99", "upgrade")

    def test_no_bundle(self, run: Run, tmp_path: Path, pictures: Path) -> None:
        one_line(run("run", "caption", tmp_path, pictures / "0000.png"), "manifest.json")


class TestInspect:
    def test_json(self, run: Run, demo_bundle: Path) -> None:
        stats = json.loads(run("inspect", demo_bundle, "--json").stdout)
        graphs = {graph["name"]: graph for graph in stats["graphs"]}
        assert list(graphs) == ["vision", "query", "text", "decoder", "itm"]
        assert graphs["vision"]["ops"]["Attention"] == 7  # six blocks and the pool
        assert stats["weight_bytes"] < sum(graph["weight_bytes"] for graph in graphs.values())

    def test_text(self, run: Run, demo_bundle: Path) -> None:
        text = run("inspect", demo_bundle).stdout
        assert "GFLOP at texts 1, length 80" in text
        assert "past_key_values.0.key float32 [batch, 3, past, 64]" in text
