"""Which file and which tensor is meant: the right one is taken, or the error names both readings."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from internvl_edge.export.accounting import account
from internvl_edge.export.checkpoint import Checkpoint, open_checkpoint
from internvl_edge.export.sources import stored_shapes
from internvl_edge.runtime.errors import CheckpointError
from tests.unit.export.checkpoint.checkpoint_folders import (
    CHAT_CONFIG,
    CONFIG,
    QKV,
    Tensors,
    chat_weights,
    language_model,
    tower,
    write_config,
    write_safetensors,
    write_shards,
)

A, B, C = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config of a tower and no weights."""
    return write_config(tmp_path / "c")


def _halves(weights: Tensors) -> tuple[Tensors, Tensors]:
    names = sorted(weights)
    return ({name: weights[name] for name in part} for part in (names[:9], names[9:]))  # type: ignore[return-value]


def _opened(source: Path, **options: Any) -> Checkpoint:
    checkpoint = open_checkpoint(source, **options)
    account(checkpoint.tensors, stored_shapes(checkpoint.config))
    return checkpoint


def _is(checkpoint: Checkpoint, weights: Tensors) -> bool:
    official = {
        name if name.startswith(("vision_", "mlp1")) else f"vision_model.{name}": v for name, v in weights.items()
    }
    assert set(checkpoint.tensors) == set(official)
    return all(torch.equal(checkpoint.tensors[name].torch(), value) for name, value in official.items())


def _refused(source: Path, finding: str, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **options)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestShards:
    def test_a_tensor_in_two_shards_is_that_of_the_weight_map(self, folder: Path) -> None:
        weights = tower()
        first, second = _halves(weights)
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        stale = {name: value * 0.25 for name, value in first.items()}
        write_shards(folder, {A: first | {name: v * 2 for name, v in second.items()}, B: second | stale}, places)
        assert _is(_opened(folder), weights)

    def test_what_shards_hold_beyond_the_index_is_accounted_for(self, folder: Path) -> None:
        first, second = _halves(tower())
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        write_shards(folder, {A: first | {"embeddings.extra": torch.ones(1)}, B: second}, places)
        with pytest.raises(CheckpointError, match=r"1 unexpected: vision_model\.embeddings\.extra"):
            _opened(folder)

    def test_what_two_shards_hold_and_the_index_does_not_name_is_refused(self, folder: Path) -> None:
        first, second = _halves(tower())
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        extra = {"embeddings.extra": torch.ones(1)}
        write_shards(folder, {A: first | extra, B: second | extra}, places)
        _refused(folder, "embeddings.extra is in two shards and not in weight_map")

    @pytest.mark.parametrize(
        "name", ["../other/w.safetensors", "/etc/passwd", "a/../../w.safetensors", "C:\\w.bin", ".."]
    )
    def test_an_index_that_points_out_of_its_folder_is_refused(self, folder: Path, name: str) -> None:
        write_shards(folder, {A: tower()}, {QKV: name})
        _refused(folder, "names files outside its folder")

    def test_shards_may_lie_in_a_folder_below(self, folder: Path) -> None:
        weights = tower()
        (folder / "shards").mkdir()
        write_shards(folder, {f"shards/{A}": weights})
        assert _is(_opened(folder), weights)

    def test_shards_may_be_links_out_of_the_folder(self, folder: Path, tmp_path: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights})
        (folder / A).rename(tmp_path / "blob")
        (folder / A).symlink_to(tmp_path / "blob")
        assert _is(_opened(folder), weights)

    def test_shards_without_the_usual_names_are_those_of_the_only_index(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights}, stem="model.fp16.safetensors")
        assert _is(_opened(folder), weights)

    def test_an_index_may_be_given_itself(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights})
        assert _is(_opened(folder / "model.safetensors.index.json"), weights)


class TestLanguageModel:
    """It is no graph's, so nothing about it hinders tower and connector."""

    @pytest.fixture
    def chat(self, tmp_path: Path) -> Path:
        return write_config(tmp_path / "chat", CHAT_CONFIG)

    @pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8, torch.float8_e5m2, torch.int32, torch.uint8])
    def test_a_quantized_one_is_left_alone(self, chat: Path, kind: torch.dtype) -> None:
        weights, packed = chat_weights(), language_model(kind)
        write_safetensors(chat, weights | packed)
        checkpoint = _opened(chat)
        assert _is(checkpoint, weights)
        assert set(checkpoint.ignored) == set(packed)

    def test_one_in_absent_shards_is_reported(self, chat: Path) -> None:
        weights, packed = chat_weights(), language_model()
        write_shards(chat, {A: weights, B: packed, C: {"language_model.lm_head.weight": torch.ones(8, 12)}})
        (chat / B).unlink()
        (chat / C).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        checkpoint = _opened(chat)
        assert _is(checkpoint, weights)
        assert checkpoint.absent_files == (B,)
        assert set(checkpoint.ignored) == {*packed, "language_model.lm_head.weight"}

    def test_an_absent_shard_with_a_needed_tensor_is_an_error(self, chat: Path) -> None:
        weights = chat_weights()
        late = {name: weights.pop(name) for name in ("mlp1.3.bias", "mlp1.3.weight")}
        write_shards(chat, {A: weights, B: late | language_model(), C: {"language_model.x": torch.ones(1)}})
        (chat / B).unlink()
        (chat / C).unlink()
        message = _refused(chat, f"names 1 absent shards: {B}; download them")
        assert C not in message

    def test_none_at_all_is_no_fault(self, chat: Path) -> None:
        write_safetensors(chat, chat_weights())
        assert _opened(chat).ignored == ()

    def test_a_quantized_tower_is_named_with_its_type(self, chat: Path) -> None:
        weights = chat_weights()
        name = "vision_model.encoder.layers.0.attn.qkv.weight"
        write_safetensors(chat, weights | {name: weights[name].to(torch.float8_e4m3fn)})
        with pytest.raises(CheckpointError, match=rf"1 not float: {name} float8_e4m3fn; .*before quantization"):
            _opened(chat)


class TestTwoFiles:
    def test_an_index_of_before_the_shards_were_joined_does_not_count(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: tower(seed=1)})
        (folder / A).unlink()
        write_safetensors(folder, weights)
        assert _is(_opened(folder), weights)

    def test_an_index_that_names_the_one_file_is_no_second_reading(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {"model.safetensors": weights})
        assert _is(_opened(folder), weights)

    def test_one_file_and_equal_shards_are_the_same_thing(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(write_shards(folder, {A: weights}), weights)
        assert _is(_opened(folder), weights)

    def test_one_file_and_other_shards_are_two_readings(self, folder: Path) -> None:
        old, new = tower(seed=1), tower(seed=2)
        write_safetensors(write_shards(folder, {A: old}), new)
        for name in ("model.safetensors", "model.safetensors.index.json"):
            _refused(folder, name)
        assert _is(_opened(folder / "model.safetensors"), new)
        assert _is(_opened(folder / "model.safetensors.index.json"), old)

    @pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
    def test_both_formats_with_one_content_are_one_reading(self, folder: Path, kind: torch.dtype) -> None:
        weights = tower()
        torch.save({f"module.{name}": value.to(kind) for name, value in weights.items()}, folder / "pytorch_model.bin")
        write_safetensors(folder, weights)
        assert _is(_opened(folder), weights)

    def test_both_formats_with_other_contents_are_two_readings(self, folder: Path) -> None:
        old, new = tower(seed=1), tower(seed=2)
        torch.save(new, folder / "pytorch_model.bin")
        write_safetensors(folder, old)
        _refused(
            folder, "model.safetensors and pytorch_model.bin hold different weights (embeddings.class_embedding has"
        )
        assert _is(_opened(folder / "pytorch_model.bin"), new)
        assert _is(_opened(folder / "model.safetensors"), old)

    def test_a_tensor_that_one_format_lacks_is_a_difference(self, folder: Path) -> None:
        weights = tower()
        torch.save(weights | {"embeddings.extra": torch.ones(2)}, folder / "pytorch_model.bin")
        write_safetensors(folder, weights)
        _refused(folder, "embeddings.extra is in one of them only")

    def test_a_torch_file_that_cannot_be_read_does_not_count_beside_safetensors(self, folder: Path) -> None:
        weights = tower()
        (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
        write_safetensors(folder, weights)
        assert _is(_opened(folder), weights)


class TestOtherNames:
    @pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint-1000.safetensors"])
    def test_the_only_file_is_the_one(self, folder: Path, name: str) -> None:
        weights = tower()
        write_safetensors(folder, weights, name)
        (folder / "optimizer.pt").write_bytes(b"x")
        (folder / "training_args.bin").write_bytes(b"x")
        assert _is(_opened(folder), weights)

    def test_of_several_files_the_error_names_all(self, folder: Path) -> None:
        write_safetensors(folder, tower(), "a.safetensors")
        write_safetensors(folder, tower(), "b.safetensors")
        _refused(folder, "a.safetensors, b.safetensors: which holds the weights is unclear; give one of them")

    def test_deepspeeds_shards_are_told_apart(self, folder: Path) -> None:
        (folder / "zero_to_fp32.py").touch()
        _refused(folder, "join them with its zero_to_fp32.py")


def _set_at(weights: Tensors, *keys: str) -> dict[str, Any]:
    content: dict[str, Any] = dict(weights)
    for key in keys[::-1]:
        content = {key: content}
    return content


WRAPPED: list[Callable[[str], str]] = [
    lambda name: f"module.{name}",
    lambda name: f"_orig_mod.{name}",
    lambda name: f"module._orig_mod.{name}",
    lambda name: f"_orig_mod.module.{name}",
    lambda name: f"_fsdp_wrapped_module.{name}",
    lambda name: re.sub(r"(layers\.\d+)\.", r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.", name),
    lambda name: f"base_model.model.{name}",
    lambda name: name.replace(".attn.qkv.", ".attn.qkv.base_layer."),
    lambda name: f"model.{name}",
    lambda name: f"model.vision_model.{name}",
    lambda name: f"model.vision_tower.vision_tower.{name}",
    lambda name: f"_forward_module.model.{name}",
    lambda name: name.replace(".attn.proj.", ".attn.proj.modules_to_save.default."),
    lambda name: f"vision_model.base_model.model.{name}",
]


class TestWrappers:
    @pytest.mark.parametrize("wrap", WRAPPED)
    def test_what_training_puts_into_names_is_taken_off(self, folder: Path, wrap: Callable[[str], str]) -> None:
        weights = tower()
        write_safetensors(folder, {wrap(name): value for name, value in weights.items()})
        assert _is(_opened(folder), weights)

    def test_weights_that_a_saved_module_replaced_are_left_out(self, folder: Path) -> None:
        weights = tower()
        name = "encoder.layers.0.attn.proj"
        stored = {n.replace(f"{name}.", f"{name}.modules_to_save.default."): v for n, v in weights.items()}
        stored |= {n.replace(f"{name}.", f"{name}.original_module."): v * 3 for n, v in weights.items() if name in n}
        write_safetensors(folder, stored)
        assert _is(_opened(folder), weights)

    def test_two_names_for_one_tensor_are_both_named(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(folder, weights | {f"module.{QKV}.weight": weights[f"{QKV}.weight"] * 2})
        _refused(folder, f"{QKV}.weight and module.{QKV}.weight stand for one tensor")

    @pytest.mark.parametrize(
        "keys",
        [
            ("module",),
            ("state_dict",),
            ("model",),
            ("model_state_dict",),
            ("ema",),
            ("a", "b", "c"),
            ("model", "module"),
        ],
    )
    def test_one_set_of_weights_is_found_wherever_it_lies(self, folder: Path, keys: tuple[str, ...]) -> None:
        weights = tower()
        content = _set_at(weights, *keys)
        torch.save({**content, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3}, folder / "w.pth")
        assert _is(_opened(folder), weights)
        assert _is(_opened(folder / "w.pth"), weights)

    @pytest.mark.parametrize(
        ("places", "names"),
        [
            ((("model",), ("model_ema",)), ("model", "model_ema")),
            ((("module",), ("ema",)), ("top", "ema")),
            ((("state_dict",), ("ema", "state_dict")), ("state_dict", "ema.state_dict")),
            (((), ("ema_model",)), ("top", "ema_model")),
        ],
    )
    def test_of_several_sets_one_must_be_chosen(
        self, folder: Path, places: tuple[tuple[str, ...], ...], names: tuple[str, str]
    ) -> None:
        sets = [tower(seed=1), tower(seed=2)]
        content: dict[str, Any] = {}
        for keys, weights in zip(places, sets, strict=True):
            content |= _set_at(weights, *keys)
        torch.save(content, folder / "w.pth")
        message = _refused(folder, "holds several sets of weights")
        for name, weights in zip(names, sets, strict=True):
            assert name in message
            assert _is(_opened(folder, state_dict=name), weights)

    def test_prefixes_of_one_file_are_sets_too(self, folder: Path) -> None:
        student, teacher = tower(seed=1), tower(seed=2)
        stored = {f"student.backbone.{n}": v for n, v in student.items()}
        write_safetensors(folder, stored | {f"teacher.backbone.{n}": v for n, v in teacher.items()})
        _refused(folder, "student.backbone, teacher.backbone; choose one with --state-dict")
        assert _is(_opened(folder, state_dict="teacher.backbone"), teacher)

    def test_a_set_that_is_not_there_is_an_error(self, folder: Path) -> None:
        torch.save({"model": tower()}, folder / "w.pth")
        _refused(folder, "--state-dict ema: ", state_dict="ema")
        assert _is(_opened(folder, state_dict="model"), tower())

    def test_the_averages_count_of_an_averaged_model_is_no_weight(self, folder: Path) -> None:
        weights = tower()
        content = {f"module.{name}": value for name, value in weights.items()} | {"n_averaged": torch.tensor(7)}
        torch.save(content, folder / "w.pth")
        assert _is(_opened(folder), weights)


def test_a_bare_file_beside_its_config_needs_no_guess(tmp_path: Path) -> None:
    weights = tower()
    write_safetensors(tmp_path, weights, "w.safetensors")
    _refused(tmp_path / "w.safetensors", "do not tell the number of heads of a tower of width 16")
    write_config(tmp_path, CONFIG)
    checkpoint = _opened(tmp_path / "w.safetensors")
    assert checkpoint.config.vision.num_heads == 2
    assert _is(checkpoint, weights)


def test_copies_of_a_checkpoint_read_the_same(folder: Path, tmp_path: Path) -> None:
    write_safetensors(folder, tower())
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert json.loads((copy / "config.json").read_text()) == CONFIG
    assert _is(_opened(copy), tower())
