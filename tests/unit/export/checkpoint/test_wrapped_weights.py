"""What training puts into names comes off, and of several sets of weights in a file one is chosen."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.export.checkpoint.checkpoint_folders import (
    QKV,
    Tensors,
    assert_refused,
    holds,
    opened,
    tower,
    write_config,
    write_safetensors,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config of a tower and no weights."""
    return write_config(tmp_path / "c")


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
        assert holds(opened(folder), weights)

    def test_weights_that_a_saved_module_replaced_are_left_out(self, folder: Path) -> None:
        weights = tower()
        name = "encoder.layers.0.attn.proj"
        stored = {n.replace(f"{name}.", f"{name}.modules_to_save.default."): v for n, v in weights.items()}
        stored |= {n.replace(f"{name}.", f"{name}.original_module."): v * 3 for n, v in weights.items() if name in n}
        write_safetensors(folder, stored)
        assert holds(opened(folder), weights)

    def test_two_names_for_one_tensor_are_both_named(self, folder: Path) -> None:
        weights = tower()
        write_safetensors(folder, weights | {f"module.{QKV}.weight": weights[f"{QKV}.weight"] * 2})
        assert_refused(folder, f"{QKV}.weight and module.{QKV}.weight stand for one tensor")

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
        assert holds(opened(folder), weights)
        assert holds(opened(folder / "w.pth"), weights)

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
        message = assert_refused(folder, "holds several sets of weights")
        for name, weights in zip(names, sets, strict=True):
            assert name in message
            assert holds(opened(folder, state_dict=name), weights)

    def test_prefixes_of_one_file_are_sets_too(self, folder: Path) -> None:
        student, teacher = tower(seed=1), tower(seed=2)
        stored = {f"student.backbone.{n}": v for n, v in student.items()}
        write_safetensors(folder, stored | {f"teacher.backbone.{n}": v for n, v in teacher.items()})
        assert_refused(folder, "student.backbone, teacher.backbone; choose one with --state-dict")
        assert holds(opened(folder, state_dict="teacher.backbone"), teacher)

    def test_a_set_that_is_not_there_is_an_error(self, folder: Path) -> None:
        torch.save({"model": tower()}, folder / "w.pth")
        assert_refused(folder, "--state-dict ema: ", state_dict="ema")
        assert holds(opened(folder, state_dict="model"), tower())

    def test_the_averages_count_of_an_averaged_model_is_no_weight(self, folder: Path) -> None:
        weights = tower()
        content = {f"module.{name}": value for name, value in weights.items()} | {"n_averaged": torch.tensor(7)}
        torch.save(content, folder / "w.pth")
        assert holds(opened(folder), weights)
