"""Which file and which tensor is meant: the right one is taken, or the error names both readings."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from internvl_edge.runtime.errors import CheckpointError
from tests.unit.export.checkpoint.checkpoint_folders import (
    CHAT_CONFIG,
    CONFIG,
    QKV,
    Tensors,
    assert_refused,
    chat_weights,
    holds,
    language_model,
    opened,
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


class TestShards:
    def test_a_tensor_in_two_shards_is_that_of_the_weight_map(self, folder: Path) -> None:
        weights = tower()
        first, second = _halves(weights)
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        stale = {name: value * 0.25 for name, value in first.items()}
        write_shards(folder, {A: first | {name: v * 2 for name, v in second.items()}, B: second | stale}, places)
        assert holds(opened(folder), weights)

    def test_what_shards_hold_beyond_the_index_is_accounted_for(self, folder: Path) -> None:
        first, second = _halves(tower())
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        write_shards(folder, {A: first | {"embeddings.extra": torch.ones(1)}, B: second}, places)
        with pytest.raises(CheckpointError, match=r"1 unexpected: vision_model\.embeddings\.extra"):
            opened(folder)

    def test_what_two_shards_hold_and_the_index_does_not_name_isassert_refused(self, folder: Path) -> None:
        first, second = _halves(tower())
        places = dict.fromkeys(first, A) | dict.fromkeys(second, B)
        extra = {"embeddings.extra": torch.ones(1)}
        write_shards(folder, {A: first | extra, B: second | extra}, places)
        assert_refused(folder, "embeddings.extra is in two shards and not in weight_map")

    @pytest.mark.parametrize(
        "name", ["../other/w.safetensors", "/etc/passwd", "a/../../w.safetensors", "C:\\w.bin", ".."]
    )
    def test_an_index_that_points_out_of_its_folder_isassert_refused(self, folder: Path, name: str) -> None:
        write_shards(folder, {A: tower()}, {QKV: name})
        assert_refused(folder, "names files outside its folder")

    def test_shards_may_lie_in_a_folder_below(self, folder: Path) -> None:
        weights = tower()
        (folder / "shards").mkdir()
        write_shards(folder, {f"shards/{A}": weights})
        assert holds(opened(folder), weights)

    def test_shards_may_be_links_out_of_the_folder(self, folder: Path, tmp_path: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights})
        (folder / A).rename(tmp_path / "blob")
        (folder / A).symlink_to(tmp_path / "blob")
        assert holds(opened(folder), weights)

    def test_shards_without_the_usual_names_are_those_of_the_only_index(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights}, stem="model.fp16.safetensors")
        assert holds(opened(folder), weights)

    def test_an_index_may_be_given_itself(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: weights})
        assert holds(opened(folder / "model.safetensors.index.json"), weights)


class TestLanguageModel:
    """It is no graph's, so nothing about it hinders tower and connector."""

    @pytest.fixture
    def chat(self, tmp_path: Path) -> Path:
        return write_config(tmp_path / "chat", CHAT_CONFIG)

    @pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8, torch.float8_e5m2, torch.int32, torch.uint8])
    def test_a_quantized_one_is_left_alone(self, chat: Path, kind: torch.dtype) -> None:
        weights, packed = chat_weights(), language_model(kind)
        write_safetensors(chat, weights | packed)
        checkpoint = opened(chat)
        assert holds(checkpoint, weights)
        assert set(checkpoint.ignored) == set(packed)

    def test_one_in_absent_shards_is_reported(self, chat: Path) -> None:
        weights, packed = chat_weights(), language_model()
        write_shards(chat, {A: weights, B: packed, C: {"language_model.lm_head.weight": torch.ones(8, 12)}})
        (chat / B).unlink()
        (chat / C).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        checkpoint = opened(chat)
        assert holds(checkpoint, weights)
        assert checkpoint.absent_files == (B,)
        assert set(checkpoint.ignored) == {*packed, "language_model.lm_head.weight"}

    def test_an_absent_shard_with_a_needed_tensor_is_an_error(self, chat: Path) -> None:
        weights = chat_weights()
        late = {name: weights.pop(name) for name in ("mlp1.3.bias", "mlp1.3.weight")}
        write_shards(chat, {A: weights, B: late | language_model(), C: {"language_model.x": torch.ones(1)}})
        (chat / B).unlink()
        (chat / C).unlink()
        message = assert_refused(chat, f"names 1 absent shards: {B}; download them")
        assert C not in message

    def test_none_at_all_is_no_fault(self, chat: Path) -> None:
        write_safetensors(chat, chat_weights())
        assert opened(chat).ignored == ()

    def test_a_quantized_tower_is_named_with_its_type(self, chat: Path) -> None:
        weights = chat_weights()
        name = "vision_model.encoder.layers.0.attn.qkv.weight"
        write_safetensors(chat, weights | {name: weights[name].to(torch.float8_e4m3fn)})
        with pytest.raises(CheckpointError, match=rf"1 not float: {name} float8_e4m3fn; .*before quantization"):
            opened(chat)


class TestTwoFiles:
    def test_an_index_of_before_the_shards_were_joined_does_not_count(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {A: tower(seed=1)})
        (folder / A).unlink()
        write_safetensors(folder, weights)
        assert holds(opened(folder), weights)

    def test_an_index_that_names_the_one_file_is_no_second_reading(self, folder: Path) -> None:
        weights = tower()
        write_shards(folder, {"model.safetensors": weights})
        assert holds(opened(folder), weights)

    def test_one_file_and_equal_shards_are_the_same_thing(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(write_shards(folder, {A: weights}), weights)
        assert holds(opened(folder), weights)

    def test_one_file_and_other_shards_are_two_readings(self, folder: Path) -> None:
        old, new = tower(seed=1), tower(seed=2)
        write_safetensors(write_shards(folder, {A: old}), new)
        for name in ("model.safetensors", "model.safetensors.index.json"):
            assert_refused(folder, name)
        assert holds(opened(folder / "model.safetensors"), new)
        assert holds(opened(folder / "model.safetensors.index.json"), old)

    @pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
    def test_both_formats_with_one_content_are_one_reading(self, folder: Path, kind: torch.dtype) -> None:
        weights = tower()
        torch.save({f"module.{name}": value.to(kind) for name, value in weights.items()}, folder / "pytorch_model.bin")
        write_safetensors(folder, weights)
        assert holds(opened(folder), weights)

    def test_both_formats_with_other_contents_are_two_readings(self, folder: Path) -> None:
        old, new = tower(seed=1), tower(seed=2)
        torch.save(new, folder / "pytorch_model.bin")
        write_safetensors(folder, old)
        assert_refused(
            folder, "model.safetensors and pytorch_model.bin hold different weights (embeddings.class_embedding has"
        )
        assert holds(opened(folder / "pytorch_model.bin"), new)
        assert holds(opened(folder / "model.safetensors"), old)

    def test_a_tensor_that_one_format_lacks_is_a_difference(self, folder: Path) -> None:
        weights = tower()
        torch.save(weights | {"embeddings.extra": torch.ones(2)}, folder / "pytorch_model.bin")
        write_safetensors(folder, weights)
        assert_refused(folder, "embeddings.extra is in one of them only")

    def test_a_torch_file_that_cannot_be_read_does_not_count_beside_safetensors(self, folder: Path) -> None:
        weights = tower()
        (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
        write_safetensors(folder, weights)
        assert holds(opened(folder), weights)


class TestOtherNames:
    @pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint-1000.safetensors"])
    def test_the_only_file_is_the_one(self, folder: Path, name: str) -> None:
        weights = tower()
        write_safetensors(folder, weights, name)
        (folder / "optimizer.pt").write_bytes(b"x")
        (folder / "training_args.bin").write_bytes(b"x")
        assert holds(opened(folder), weights)

    def test_of_several_files_the_error_names_all(self, folder: Path) -> None:
        write_safetensors(folder, tower(), "a.safetensors")
        write_safetensors(folder, tower(), "b.safetensors")
        assert_refused(folder, "a.safetensors, b.safetensors: which holds the weights is unclear; give one of them")

    def test_shards_without_their_index_ask_for_it(self, folder: Path) -> None:
        for index in (1, 2):
            write_safetensors(folder, tower(), f"model-0000{index}-of-00002.safetensors")
        assert_refused(folder, "model-00002-of-00002.safetensors without model.safetensors.index.json; download it")

    def test_deepspeeds_shards_are_told_apart(self, folder: Path) -> None:
        (folder / "zero_to_fp32.py").touch()
        assert_refused(folder, "join them with its zero_to_fp32.py")


def test_a_bare_file_beside_its_config_needs_no_guess(tmp_path: Path) -> None:
    weights = tower()
    write_safetensors(tmp_path, weights, "w.safetensors")
    assert_refused(tmp_path / "w.safetensors", "do not determine the number of heads of a tower of width 16")
    write_config(tmp_path, CONFIG)
    checkpoint = opened(tmp_path / "w.safetensors")
    assert checkpoint.config.vision.num_heads == 2
    assert holds(checkpoint, weights)


def test_copies_of_a_checkpoint_read_the_same(folder: Path, tmp_path: Path) -> None:
    write_safetensors(folder, tower())
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert json.loads((copy / "config.json").read_text()) == CONFIG
    assert holds(opened(copy), tower())
