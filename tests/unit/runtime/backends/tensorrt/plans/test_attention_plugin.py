"""What launches the kernels that a plan holds, and what is refused; the bindings and the driver are fakes."""

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import (
    KernelLauncher,
    KernelRecord,
    StoredKernel,
    provide_plugins,
)
from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import formula_json, symbol
from internvl_edge.runtime.errors import BackendError, InputError

TILES = formula_json(-(-symbol("N") // 64))
RECORD = KernelRecord(
    plugin="vit_attention_plain",
    outputs=1,
    sizes={"B": ((0, 0),), "N": ((0, 1),), "BN": ((0, 0), (0, 1))},
    integers=("N", "BN"),
    kernels=tuple(
        StoredKernel(
            entry=f"attend_{tile}", ptx="ptx", threads=128, shared_bytes=1 << 10, grid=(TILES, formula_json(16), 1)
        )
        for tile in (64, 32)
    ),
)
SHAPES = [(2, 257, 192)]


class Driver:
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.loaded: list[tuple[bytes, str, int]] = []
        self.launched: list[tuple[Any, ...]] = []

    def load(self, ptx: bytes, entry: str, shared_bytes: int) -> str:
        self.loaded.append((ptx, entry, shared_bytes))
        return entry

    def launch(
        self,
        function: str,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[tuple[str, int]],
        stream: int,
    ) -> None:
        self.launched.append((function, grid, threads, shared_bytes, list(arguments), stream))


class Field:
    """What ``trt.PluginField`` is; `misread` as by bindings that were compiled before NumPy 2."""

    misread = False

    def __init__(self, name: str, data: bytes, kind: object) -> None:
        self.name = name
        self.data = np.frombuffer(data[:1] * len(data) if self.misread else data, np.int8)


class Registry:
    """What ``trt.get_plugin_registry()`` is."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


def tensorrt() -> Any:
    """A TensorRT that knows no plugin."""
    registry = Registry()
    classes = {
        name: type(name, (), {})
        for name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneRuntime", "IPluginCreatorV3One")
    }
    return SimpleNamespace(
        __version__="10.3.0",
        get_plugin_registry=lambda: registry,
        PluginField=type("Field", (Field,), {}),
        PluginFieldCollection=list,
        PluginFieldType=SimpleNamespace(CHAR="char"),
        **classes,
    )


def test_the_ptx_gets_inputs_then_integers_then_outputs() -> None:
    driver = Driver()
    launcher = KernelLauncher(RECORD, driver)
    for tactic in (0, 1, 2):
        launcher.launch(tactic, SHAPES, [0xA0], [0xB0], 7)
    arguments = [("u64", 0xA0), ("u32", 257), ("u32", 514), ("u64", 0xB0)]
    assert driver.launched == [
        (f"attend_{tile}", (5, 16, 1), 128, 1 << 10, arguments, 7)
        for tile in (64, 64, 32)  # 0 is TensorRT's default
    ]
    assert driver.loaded == [(b"ptx", "attend_64", 1 << 10), (b"ptx", "attend_32", 1 << 10)], "each once"


@pytest.mark.parametrize("shape", [(2, 0, 192), (0, 257, 192), (-1, 257, 192)])
def test_an_input_without_rows_is_refused_before_the_device_sees_it(shape: tuple[int, ...]) -> None:
    driver = Driver()
    with pytest.raises(InputError, match=r"internvl::vit_attention_plain: input 0 is \[.*\]; give at least one row"):
        KernelLauncher(RECORD, driver).launch(1, [shape], [16], [32], 0)
    assert driver.loaded == driver.launched == []


def test_pointers_that_loads_would_fault_on_are_refused_all_at_once() -> None:
    driver = Driver()
    with pytest.raises(InputError, match=r"internvl::vit_attention_plain: 0x102, 0x208 not aligned to 16 bytes; build"):
        KernelLauncher(RECORD, driver).launch(1, SHAPES, [0x102], [0x208], 0)
    assert driver.launched == []


def test_a_record_is_what_its_text_says() -> None:
    assert KernelRecord.of_text(RECORD.text()) == RECORD
    assert KernelRecord.of_text(RECORD.text() + "\0") == RECORD


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"ptx"', '"cubin"'),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "integers"}),
        lambda text: json.dumps({**json.loads(text), "sizes": {"N": [[0]]}}),
        lambda text: json.dumps({**json.loads(text), "sizes": [1]}),
        lambda text: json.dumps({**json.loads(text), "kernels": [3]}),
    ],
)
def test_a_damaged_record_is_one_line(damage: Callable[[str], str]) -> None:
    with pytest.raises(
        BackendError, match=r"^an attention plugin's kernels cannot be read \(.*\); build the plan again$"
    ):
        KernelRecord.of_text(damage(RECORD.text()))


def test_a_plan_finds_its_plugins_once_they_are_provided() -> None:
    trt, driver = tensorrt(), Driver()
    for _ in range(2):
        provide_plugins(trt, [("vit_attention_plain", "3")], driver, "vision.plan")
    registry = trt.get_plugin_registry()
    (creator,) = registry.creators.values()
    fields = [trt.PluginField("kernels", RECORD.text().encode(), None)]
    first, second = (creator.create_plugin("vit_attention_plain", fields, None) for _ in range(2))
    assert (first.plugin_name, first.plugin_version, first.plugin_namespace) == ("vit_attention_plain", "3", "internvl")
    context = second.attach_to_context(None)
    described = [SimpleNamespace(dims=SHAPES[0])]
    for plugin, tactic in ((first, 1), (context, 1), (context, 2)):
        plugin.set_tactic(tactic)
        plugin.on_shape_change(described, described)
        plugin.enqueue(described, described, [16], [32], 0, 9)
    assert [function for function, *_ in driver.launched] == ["attend_64", "attend_64", "attend_32"]
    assert [entry for _, entry, _ in driver.loaded] == ["attend_64", "attend_32"], "equal blocks load once"
    (field,) = first.get_fields_to_serialize()
    assert KernelRecord.of_text(field.data.tobytes().decode()) == RECORD


def test_absent_plugins_are_refused_by_name_and_version_all_at_once() -> None:
    trt = tensorrt()
    wanted = [("qllama_text", "3"), ("vit_attention", "9"), ("combine", "1")]
    with pytest.raises(BackendError) as caught:
        provide_plugins(trt, wanted, Driver(), "vision.plan")
    message = str(caught.value)
    assert "\n" not in message
    absent = "internvl::combine version 1, internvl::vit_attention version 9"
    assert message.startswith(f"vision.plan: needs plugin {absent}, which TensorRT 10.3.0")
    assert message.endswith("or with --attention pattern")


def test_bindings_that_misread_fields_say_so_and_plans_without_plugins_do_not_ask() -> None:
    trt = tensorrt()
    trt.PluginField.misread = True
    provide_plugins(trt, [], Driver(), "text.plan")
    with pytest.raises(BackendError, match=r"TensorRT 10.3.0 misreads .* beside NumPy .*; install numpy<2"):
        provide_plugins(trt, [("vit_attention", "3")], Driver(), "vision.plan")
