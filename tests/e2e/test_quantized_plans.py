"""Every 8-bit graph of the demo runs on ONNX Runtime and becomes a TensorRT-RTX plan that multiplies in 8 bits.

Plans are not run here: that takes a GPU. Their text says what was built: constants with type and size, and the steps
of the schedule with the ONNX nodes they compute.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.targets import find_target
from tests.e2e.every_graph import GENERATIONS, build_every_graph, build_generation
from tests.exports import Exports

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

TARGET = "rtx-4090"
LINEARS = {"vision": 24, "query": 54, "text": 42, "decoder": 43, "itm": 54}
"""Quantized linears of each graph: 6 blocks of 4 (vision) or 7 (QLLaMA), 3 times 4 of cross-attention, lm_head."""
CASES = {"int8": ("int8", False), "fp8": ("fp8", False), "fp8-attention": ("fp8", True)}
IMAGE_SIZE = 84
"""37 tokens instead of 26: enough for attention in FP8."""
CODES = {"int8": "int8", "fp8": "fp8_e4m3"}
"""Precision -> type of codes in the text of a plan."""

_CONSTANT = re.compile(r'^  tensor=\{[^\n]* const_payload_size=(\d+) [^\n]*name="([^"]+)"[^\n]* type=(\w+) \}$', re.M)
_GEMM = re.compile(r"^  (?:fully_connected|runtime_fusion)=\{.*$", re.M)
_FUSED_ATTENTION = re.compile(r"^  function=\{ name=_gem[mv]_mha\w* .*$", re.M)


@dataclass(frozen=True)
class Plan:
    """What the text of the plans of one graph says."""

    text: str

    @cached_property
    def constants(self) -> dict[str, tuple[str, int]]:
        """Name -> type and bytes."""
        return {name: (dtype, int(size)) for size, name, dtype in _CONSTANT.findall(self.text)}

    def bytes_of(self, dtype: str) -> int:
        """Return the bytes of all constants of a type; each profile of a plan has its own."""
        return sum(int(size) for size, _, found in _CONSTANT.findall(self.text) if found == dtype)

    def gemms(self, weight_type: str | None = None) -> set[str]:
        """Return the ONNX nodes in steps that multiply matrices, one of them a constant of `weight_type` if given."""
        steps = _GEMM.findall(self.text)
        return {name for step in steps if weight_type in (None, *self._types(step)) for name in _layers(step)}

    @property
    def fused_attentions(self) -> set[str]:
        """Modules whose attention is one kernel, however the graph writes it."""
        return {_module(name) for step in _FUSED_ATTENTION.findall(self.text) for name in _layers(step)}

    def _types(self, step: str) -> Iterator[str]:
        inputs = re.search(r" input(?:_args)?=\{([^}]*)\}", step)
        for name in re.findall(r'"([^"]+)"', inputs[1] if inputs else ""):
            if name in self.constants:
                yield self.constants[name][0]


def _layers(step: str) -> list[str]:
    return re.findall(r"\[ONNX Layer: ([^\]]+)\]", step)


def _module(node: str) -> str:
    return node.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One case of the demo."""

    bundle: Path
    precision: str
    fp8_attention: bool

    def graph(self, name: str) -> ir.Model:
        return ir.load(self.bundle / "onnx" / self.precision / f"{name}.onnx")

    def plan(self, name: str) -> Plan:
        files = sorted((self.bundle / "engines" / TARGET).glob(f"{name}*.plan"))
        assert files, f"{name} has no plan"
        return Plan("\n".join(file.read_bytes().decode("latin-1") for file in files))


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, exports: Exports, emoji: Path) -> Exported:
    """The demo, with scales that take no search and without the damage of each site.

    Neither changes what is built, and both take most of an export's time.
    """
    precision, fp8_attention = CASES[request.param]
    calibration = str(emoji / "data" / "calibration.jsonl")
    few = {"data": calibration, "sample_count": 16}  # the fewest allowed: what is built does not depend on them
    bundle, report = exports.report(
        emoji / "checkpoint",
        image_size=IMAGE_SIZE,
        precision=precision,
        ranges=exports.ranges(emoji / "checkpoint", image_size=IMAGE_SIZE, **few),
        method="max",
        smooth="0.5",
        fp8_attention=fp8_attention,
        gate_samples=0,
        target=TARGET,
        samples=emoji / "data" / "test.jsonl",
    )
    assert {error.graph for error in report.errors} == set(LINEARS), "a graph was not run on ONNX Runtime"
    assert report.kept_high == ()
    return Exported(bundle=bundle, precision=precision, fp8_attention=fp8_attention)


def codes(model: ir.Model) -> dict[str, int]:
    """Return the linears whose weight is 8-bit, and the number of their codes."""
    held = model.graph.initializers
    paths = [name.removesuffix(".weight_scale") for name in held if name.endswith(".weight_scale")]
    return {path: _size(held[f"{path}.weight"]) for path in paths}


def other_values(model: ir.Model) -> int:
    """Return how many values the initializers hold that are no codes."""
    return sum(_size(value) for value in model.graph.initializers.values()) - sum(codes(model).values())


def _size(value: ir.Value) -> int:
    assert value.shape is not None
    return int(np.prod(value.shape.numpy(), dtype=np.int64))


@pytest.mark.parametrize("graph", LINEARS)
def test_the_plan_multiplies_in_8_bits(exported: Exported, graph: str) -> None:
    model, plan = exported.graph(graph), exported.plan(graph)
    dtype = CODES[exported.precision]
    linears = codes(model)
    assert len(linears) == LINEARS[graph]
    assert sorted(set(linears) - plan.gemms(dtype)) == [], "multiplied in another type"
    stored, profiles = plan.bytes_of(dtype), 2 if graph == "decoder" else 1
    assert stored == profiles * sum(linears.values()), "weights that are no codes, or codes of something else"
    weights = sum(plan.bytes_of(found) for found in ("half", "float", dtype))
    in_fp16 = 2 * (sum(linears.values()) + other_values(model)) * profiles
    assert weights < in_fp16 - 0.95 * stored, "the linears' weights are not half of what they are in fp16"


@pytest.mark.parametrize("sm", [sm for sm in GENERATIONS if sm != 89])
def test_other_generations_build_every_graph(exported: Exported, sm: int, tmp_path: Path) -> None:
    if exported.precision == "fp8" and not find_target(f"sm_{sm}").fp8:
        with pytest.raises(EngineError, match="cannot build it for sm_"):
            build_generation(exported.bundle, sm, tmp_path)
        return
    assert set(build_generation(exported.bundle, sm, tmp_path)) == set(LINEARS)


@pytest.mark.parametrize("sm", GENERATIONS[89])
def test_the_same_generation_builds_the_form_of_ada(exported: Exported, sm: int, tmp_path: Path) -> None:
    if exported.precision == "fp8":
        with pytest.raises(EngineError, match="cannot build it for sm_"):
            build_every_graph(exported.bundle, sm, tmp_path)
        return
    built = (build_every_graph(exported.bundle, number, tmp_path, ["decoder"]) for number in (sm, 89))
    assert len({sizes["decoder"] for sizes in built}) == 1


@pytest.mark.parametrize("graph", LINEARS)
def test_attention_is_8_bit_where_asked(exported: Exported, graph: str) -> None:
    """The pools and what may see few rows stay in fp16; every attention but the pools is one kernel all the same."""
    model, plan = exported.graph(graph), exported.plan(graph)
    kept = {_module(str(node.name)) for node in model.graph if node.op_type == "Attention"}
    written_out = {_module(str(node.name)) for node in model.graph if str(node.name).endswith("/scores")}
    attentions = {"vision": 6, "query": 9, "text": 6, "decoder": 6, "itm": 9}[graph]
    pools = {name for name in kept if name.startswith("clip_projector")}
    assert len(pools) == (1 if graph in ("vision", "query") else 0)
    quantized = {"vision": 6, "query": 3, "itm": 3}.get(graph, 0) if exported.fp8_attention else 0
    assert len(kept) == len(pools) + attentions - quantized
    assert len(written_out) == quantized, "what sees pictures: 8 queries or the texts alone are too few"
    assert sorted((written_out | kept) - pools - plan.fused_attentions) == []


def test_without_a_gate_no_site_is_ranked(exported: Exported) -> None:
    report = json.loads((exported.bundle / "reports" / "quantization.json").read_text())
    assert report["sensitivity"] == []
    assert "sensitivity: not measured, since there is no gate (--gate-samples 0)" in report["notes"]


def test_the_bundle_is_of_use(exported: Exported, emoji: Path) -> None:
    model = InternVL.open(exported.bundle, "onnxruntime")
    data = open_data(emoji / "data" / "test.jsonl")
    rows = data.subsample(2).rows
    pictures = [data.picture(row) for row in rows]
    images, grouped = (model.encode_image(pictures, mode=mode) for mode in ("c", "g"))
    texts = model.encode_text([row.texts["en"][0] for row in rows])
    assert images.shape == grouped.shape == texts.shape == (2, 128)
    assert np.isfinite(np.concatenate([images, grouped, texts])).all()
    captions = model.caption(pictures, max_new_tokens=4)
    assert all(isinstance(caption, str) and caption.strip() for caption in captions)
    assert np.isfinite(model.match(pictures, [row.texts["en"][0] for row in rows])).all()
