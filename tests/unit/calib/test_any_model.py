"""Calibration takes any model that names its blocks and their linears, and runs: here one in NumPy, no exporter."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_edge.calib.choose import Precision, PrecisionOptions, choose_precision
from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.calib.formats import broadcast_scale, encode
from internvl_edge.calib.measure_ranges import RangeOptions, run_measurement, start_measurement
from internvl_edge.calib.model import BlockObserver, BlockwiseForward, CalibrationModel
from internvl_edge.calib.quantize import fake_quantizers
from internvl_edge.calib.ranges.collector import Collector
from internvl_edge.calib.ranges.stored import Ranges, open_ranges
from internvl_edge.calib.recipes.recipe import Factors, Recipe
from internvl_edge.calib.sites import NormFold, Site
from internvl_edge.runtime.errors import CalibrationError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.progress import Silent

SIZE, WIDTH, INNER, BLOCKS = 8, 48, 96, 2
TOKENS = 3 * SIZE * SIZE // WIDTH

Linear = Callable[[str, np.ndarray], np.ndarray]


class ArrayModel:
    """A residual tower of ``x + relu((x * gain) W1^T) W2^T``."""

    name, fingerprint, tokenizer, vocabulary = "arrays", "0123", None, None
    pictures = Preprocessing(image_size=SIZE)
    values_per_picture = TOKENS * INNER
    graphs: tuple[str, ...] = ("vision",)

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.values: dict[str, np.ndarray] = {}
        self.blocks: dict[str, Sequence[Site]] = {}
        for index in range(BLOCKS):
            path = f"blocks.{index}"
            self.values[f"{path}.gain"] = rng.uniform(0.5, 2, WIDTH).astype(np.float32)
            self.values[f"{path}.fc1.weight"] = rng.normal(0, 0.15, (INNER, WIDTH)).astype(np.float32)
            self.values[f"{path}.fc2.weight"] = rng.normal(0, 0.1, (WIDTH, INNER)).astype(np.float32)
            norm = NormFold(parameters=(f"{path}.gain",))
            self.blocks[path] = (
                _site(f"{path}.fc1", index, WIDTH, norm),
                _site(f"{path}.fc2", index, INNER, None),
            )

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.values.items()}

    def weight(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.values[name])

    def is_quantized(self, graph: str) -> bool:
        return graph == "vision"

    def sensitivity_output(self, graph: str) -> str | None:
        return "vision_states"

    def fewest_rows(self, graph: str, attention: str) -> int:
        return TOKENS

    def blockwise_forward(self, inputs: CalibrationInputs, graphs: Sequence[str], compute: str) -> BlockwiseForward:
        return ArrayForward(self, inputs.pixel_values)

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], recipe: Recipe | None) -> dict[str, np.ndarray]:
        x = _tokens(inputs["pixel_values"])
        changed = {} if recipe is None else fake_quantizers(recipe, graph)

        def linear(path: str, x: np.ndarray) -> np.ndarray:
            if path in changed:
                x = changed[path](torch.from_numpy(x.copy())).numpy()
            found: np.ndarray = x @ self._stored(f"{path}.weight", path, recipe).T
            return found

        for path in self.blocks:
            x = x + self._block(path, x, linear, self._stored(f"{path}.gain", "", recipe))
        return {"vision_states": x}

    def _block(self, path: str, x: np.ndarray, linear: Linear, gain: np.ndarray) -> np.ndarray:
        return linear(f"{path}.fc2", np.maximum(linear(f"{path}.fc1", x * gain), 0))

    def _stored(self, name: str, path: str, recipe: Recipe | None) -> np.ndarray:
        """Return a weight as the recipe changes it."""
        if recipe is None:
            return self.values[name]
        value = recipe.factors.get(name, Factors()).apply(self.weight(name))
        if path in recipe.linears and recipe.weights is not None:
            form = recipe.weights
            scale = broadcast_scale(recipe.linears[path].scale, form.granularity, value.ndim)
            value = encode(value, scale, form).float() * scale
        return value.numpy()


class ArrayForward:
    """All pictures on their way through an `ArrayModel`."""

    def __init__(self, model: ArrayModel, pixels: np.ndarray) -> None:
        self._model = model
        self.blocks = tuple(model.blocks)
        self.samples = {"vision": len(pixels)}
        self.position = 0
        self.states = {"vision": torch.from_numpy(_tokens(pixels))}

    def resume(self, position: int, states: dict[str, torch.Tensor]) -> None:
        self.position, self.states = position, states

    def step(self, observer: BlockObserver) -> str:
        path, x = self.blocks[self.position], self.states["vision"].numpy()

        def linear(name: str, x: np.ndarray) -> np.ndarray:
            observer.linear(name, torch.from_numpy(x))
            found: np.ndarray = x @ self._model.values[f"{name}.weight"].T
            return found

        observer.enter("vision", len(x), None)
        self.states["vision"] = torch.from_numpy(
            x + self._model._block(path, x, linear, self._model.values[f"{path}.gain"])
        )
        observer.leave(path, self.states["vision"])
        self.position += 1
        return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(1).integers(0, 255, (32, SIZE, SIZE, 3), np.uint8)
    for index, values in enumerate(noise):
        Image.fromarray(values).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def ranges(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Ranges:
    folder = tmp_path_factory.mktemp("ranges")
    run_measurement(start_measurement(ArrayModel(), asked(pictures)), folder, Silent())
    return open_ranges(folder)


@pytest.fixture(scope="module")
def chosen(ranges: Ranges, pictures: Path) -> Precision:
    return choose_precision(ArrayModel(), ranges, wanted(), lambda graph: samples(pictures), Silent())


def test_ranges_are_those_of_the_arrays(ranges: Ranges, pictures: Path) -> None:
    model = ArrayModel()
    x = _tokens(samples(pictures, 20)["pixel_values"]) * model.values["blocks.0.gain"]
    seen = ranges.block("blocks.0")["vision", "blocks.0.fc1"]
    np.testing.assert_allclose(seen.amax, np.abs(x).reshape(-1, WIDTH).max(axis=0), rtol=1e-6)
    assert ranges.info.blocks == ("blocks.0", "blocks.1")
    assert (ranges.info.checkpoint, ranges.info.fingerprint, ranges.info.image_size) == ("arrays", "0123", SIZE)


def test_a_stopped_measurement_goes_on_where_it_was(ranges: Ranges, pictures: Path, tmp_path: Path) -> None:
    first = start_measurement(ArrayModel(), asked(pictures))
    first.forward.step(Collector(first.model.blocks["blocks.0"], first.forward.samples))
    second = start_measurement(ArrayModel(), asked(pictures))
    second.forward.resume(first.forward.position, dict(first.forward.states))
    run_measurement(second, tmp_path, Silent())
    expected = ranges.block("blocks.1")["vision", "blocks.1.fc2"].amax
    np.testing.assert_array_equal(open_ranges(tmp_path).block("blocks.1")["vision", "blocks.1.fc2"].amax, expected)


def test_every_linear_is_quantized_and_little_is_lost(chosen: Precision, ranges: Ranges, pictures: Path) -> None:
    recipe = chosen.recipe
    assert [decision.site.name for decision in recipe.decisions if decision.quantized] == [
        "blocks.0.fc1",
        "blocks.0.fc2",
        "blocks.1.fc1",
        "blocks.1.fc2",
    ]
    clip = recipe.decisions[1].clips["vision"]
    assert clip.scale == pytest.approx(ranges.block("blocks.0")["vision", "blocks.0.fc2"].amax.max() / 127, rel=1e-6)
    model: CalibrationModel = ArrayModel()
    plain, found = (model.run("vision", samples(pictures), each)["vision_states"] for each in (None, recipe))
    noise = float(np.square(plain - found).sum() / np.square(plain).sum())
    assert 0 < noise < 1e-3, "30 dB"


def test_the_gate_and_the_ranking_run_the_model(chosen: Precision) -> None:
    assert chosen.gate is not None
    result = chosen.gate.measure(lambda graph, inputs: ArrayModel().run(graph, inputs, chosen.recipe))
    assert [metric.name for metric in result.metrics] == ["cosine of vision states"]
    assert 0 < result.drop < 0.5
    assert sorted(damage.site for damage in chosen.damages) == sorted(chosen.recipe.linears)
    levels = [damage.sqnr_db for damage in chosen.damages]
    assert levels == sorted(levels)
    assert levels[0] > 30


def test_ranges_of_another_model_are_refused(ranges: Ranges) -> None:
    other = ArrayModel()
    other.fingerprint = "4567"  # type: ignore[misc]
    with pytest.raises(CalibrationError, match="arrays"):
        choose_precision(other, ranges, wanted(), lambda graph: {}, Silent())


def asked(pictures: Path) -> RangeOptions:
    return RangeOptions(
        data=str(pictures), samples=20, method="max", graphs=None, compute="fp32", producer={}, code="c"
    )


def wanted() -> PrecisionOptions:
    return PrecisionOptions(
        graphs=("vision",),
        precision="int8",
        dtype="float32",
        method=None,
        smooth="off",
        fp8_attention=False,
        high={},
        data=None,
        gate_samples=8,
        max_drop=0.5,
        budget_layers=None,
    )


def samples(pictures: Path, count: int = 4) -> dict[str, np.ndarray]:
    """Return pictures spread over the folder as calibration takes them."""
    files = sorted(pictures.iterdir())
    return {"pixel_values": preprocess([files[int(i * 32 / count)] for i in range(count)], ArrayModel.pictures)}


def _tokens(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), TOKENS, WIDTH)


def _site(name: str, block: int, channels: int, fold: NormFold | None) -> Site:
    return Site(
        name=name,
        linears=(name,),
        tower="vision",
        block=block,
        kind=name.rpartition(".")[2],
        channels=channels,
        fold=fold,
    )
