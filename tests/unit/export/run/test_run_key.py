"""A run's key changes with everything that the result depends on, and with nothing else; what changed has a name."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_edge
from internvl_edge.calib.ranges.stored import RangesInfo
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.run import producer as producing
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.export.run.producer import code_digest
from internvl_edge.export.run.run_key import calibrate_key, export_key, ranges_parts
from internvl_edge.export.run.samples import load_samples

Change = Callable[[Path], None]


@pytest.fixture
def work(golden_a: Path, tmp_path: Path) -> Path:
    """A folder with a checkpoint in shards with its companions, pictures to verify on, and data to calibrate on."""
    folder = shutil.copytree(golden_a / "checkpoint_sharded", tmp_path / "ckpt")
    for name in ("tokenizer.model", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        shutil.copy(golden_a / "checkpoint" / name, folder)
    _picture(tmp_path / "samples" / "a.png", 1)
    _picture(tmp_path / "data" / "a.png", 2)
    _picture(tmp_path / "data" / "b.png", 3)
    rows = [{"file": "a.png", "caption": "one"}, {"file": "b.png", "caption": "two"}]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(path)


def _key(work: Path, **options: Any) -> dict[str, object]:
    settings = {"precision": "int8", "data": str(work / "data" / "rows.jsonl"), "samples": work / "samples", **options}
    asked = ExportOptions(checkpoint=str(work / "ckpt"), output=work / "bundle", **settings)
    checkpoint = open_checkpoint(asked.checkpoint)
    samples = load_samples(asked.samples, checkpoint.config.pictures, asked.sample_count, checkpoint.folder)
    return export_key(checkpoint, checkpoint.config, asked, samples)


def _changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    return {name for name in {**before, **after} if repr(before.get(name)) != repr(after.get(name))}


def _edit(name: str, **values: Any) -> Change:
    def change(work: Path) -> None:
        file = work / "ckpt" / name
        content = json.loads(file.read_text())
        for key, value in values.items():
            (content["qllama_config"] if key.startswith("r") else content)[key] = value
        file.write_text(json.dumps(content))

    return change


def _rewrite_same_size(work: Path) -> None:
    """Write a shard anew, with another value, of the same size, at the same time: its inode alone is another."""
    file = work / "ckpt" / "model-00001-of-00007.safetensors"
    stamp, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.rename(work / "kept")
    file.write_bytes(data)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _longer_tokenizer(work: Path) -> None:
    file = work / "ckpt" / "tokenizer.model"
    file.write_bytes(file.read_bytes() + b" ")


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "config.json": (_edit("config.json", rms_norm_eps=1e-5), {"config.json", "the model"}),
    "a field without bearing": (_edit("config.json", label_smoothing=0.5), {"config.json"}),
    "generation_config.json": (_edit("generation_config.json", temperature=0.5), {"generation_config.json"}),
    "tokenizer_config.json": (_edit("tokenizer_config.json", legacy=False), {"tokenizer_config.json"}),
    "tokenizer.model": (_longer_tokenizer, {"tokenizer.model"}),
    "preprocessor_config.json": (
        _edit("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
        {"preprocessor_config.json", "the model", "the samples"},
    ),
    "the index": (_edit("model.safetensors.index.json", metadata={}), {"model.safetensors.index.json"}),
    "weights, touched": (
        lambda work: os.utime(work / "ckpt" / "model-00002-of-00007.safetensors", ns=(1, 1)),
        {"model-00002-of-00007.safetensors"},
    ),
    "weights, replaced": (_rewrite_same_size, {"model-00001-of-00007.safetensors"}),
    "a file that was not there": (
        lambda work: (work / "ckpt" / "added_tokens.json").write_text("{}") and None,
        {"added_tokens.json"},
    ),
    "a picture to verify on": (lambda work: _picture(work / "samples" / "a.png", 9), {"the samples"}),
    "a picture to calibrate on": (lambda work: _picture(work / "data" / "b.png", 9), {"the content of --data"}),
    "a caption": (
        lambda work: (work / "data" / "rows.jsonl").write_text('{"file": "a.png", "caption": "three"}') and None,
        {"the content of --data"},
    ),
    "prompts": (
        lambda work: (work / "data" / "prompts.json").write_text('{"caption_prompts": {"en": "x"}}') and None,
        {"the content of --data"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_changes_the_part_that_is_named_after_it(work: Path, name: str) -> None:
    change, parts = CHANGES[name]
    before = _key(work)
    change(work)
    assert _changed(before, _key(work)) == parts


def test_the_same_run_has_the_same_key(work: Path) -> None:
    before = _key(work)
    (work / "ckpt" / "README.md").write_text("notes")
    assert _changed(before, _key(work)) == set()


OTHER_OPTIONS: dict[str, Any] = {
    "graphs": ("vision",),
    "dtype": "bf16",
    "weights": "copy",
    "image_size": 84,
    "feature_layers": (1,),
    "target": "l4",
    "atol": 0.5,
    "on_overflow": "refuse",
    "sample_count": 3,
    "precision": "fp8",
    "calibration_samples": 16,
    "method": "max",
    "ranges": Path("ranges"),
    "smooth": "off",
    "keep_high": ("x",),
    "fp8_attention": True,
    "max_drop": 1.0,
    "budget_layers": 3,
    "gate_samples": 7,
    "revision": "r",
    "accept_config": ("a",),
    "state_dict": "top",
    "max_context": 4096,
}


@pytest.mark.parametrize("name", sorted({field.name for field in fields(ExportOptions)} - {"checkpoint", "output"}))
def test_every_option_is_a_part(work: Path, name: str) -> None:
    if name in ("samples", "data"):
        other: Any = work / "data" if name == "samples" else "random"
    else:
        other = OTHER_OPTIONS[name]
    more = {"precision": "fp8"} if name == "fp8_attention" else {}
    before, after = _key(work, **more), _key(work, **{**more, name: other})
    assert f"--{name.replace('_', '-')}" in _changed(before, after)


def test_a_picture_beside_the_weights_counts_where_it_is_verified_on(work: Path) -> None:
    before = _key(work, samples=None)
    _picture(work / "ckpt" / "example.png", 4)
    assert _changed(before, _key(work, samples=None)) == {"the samples"}


def test_an_adapter_beside_the_weights_is_a_part(work: Path) -> None:
    import torch

    from tests.unit.export.checkpoint.checkpoint_folders import write_safetensors

    before = _key(work)
    module = "base_model.model.vision_model.encoder.layers.0.attn.proj"
    halves = {f"{module}.lora_A.weight": torch.ones(2, 64), f"{module}.lora_B.weight": torch.ones(64, 2)}
    write_safetensors(work / "ckpt", halves, "adapter_model.safetensors")
    config = work / "ckpt" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    merged = _key(work)
    assert _changed(before, merged) == {"adapter_model.safetensors", "adapter_config.json"}
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    assert _changed(merged, _key(work)) == {"adapter_config.json"}


def test_ranges_are_a_part_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text("{}")
    (tmp_path / "a.safetensors").write_text("1")
    before = ranges_parts(tmp_path)
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    assert ranges_parts(tmp_path) != before
    assert ranges_parts(tmp_path / "absent") == {}


def test_ranges_depend_on_the_checkpoints_files_and_on_the_data(work: Path) -> None:
    checkpoint = open_checkpoint(work / "ckpt")
    info = RangesInfo(
        checkpoint="c",
        fingerprint="f",
        image_size=56,
        data=({"sha256": "1"},),
        method="max",
        compute="float32",
        producer={},
        code="",
        graphs=("vision",),
        blocks=(),
    )
    before = calibrate_key(checkpoint, checkpoint.config, info)
    assert _changed(before, calibrate_key(checkpoint, checkpoint.config, replace(info, method="mse"))) == {"the method"}
    other = replace(info, data=({"sha256": "2"},))
    assert _changed(before, calibrate_key(checkpoint, checkpoint.config, other)) == {"the data"}
    _edit("config.json", rms_norm_eps=1e-5)(work)
    edited = open_checkpoint(work / "ckpt")
    assert _changed(before, calibrate_key(edited, edited.config, info)) == {"config.json", "the model"}


class TestCode:
    @pytest.fixture
    def copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of the program elsewhere, which the digest is taken of."""
        root = Path(internvl_edge.__file__).parent
        for room in ("calib", "export", "runtime"):
            shutil.copytree(root / room, tmp_path / "copy" / room, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(producing.internvl_edge, "__file__", str(tmp_path / "copy" / "__init__.py"))
        return tmp_path / "copy"

    def test_the_digest_is_the_same_wherever_the_program_stands(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = code_digest()
        monkeypatch.undo()
        assert code_digest() == found

    @pytest.mark.parametrize(
        "file", ["calib/recipes/decide.py", "export/compile.py", "export/models/qllama.py", "runtime/stages.py"]
    )
    def test_the_code_of_every_room_counts(self, copy: Path, file: str) -> None:
        before = code_digest()
        with (copy / file).open("a") as code:
            code.write("\n")
        assert code_digest() != before

    def test_what_compiling_leaves_does_not_count(self, copy: Path) -> None:
        before = code_digest()
        (copy / "calib" / "__pycache__").mkdir()
        (copy / "calib" / "__pycache__" / "decide.cpython-311.pyc").write_bytes(b"x")
        assert code_digest() == before
