"""The store of weights that is written: values, types, codes, and what is said of values that are no numbers."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl_edge.calib.formats import amax_of, scale_of
from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_sources import QuantizedTensor
from internvl_edge.export.checkpoint.store.weight_store import STORE_NAME, plan_weights, write_store
from internvl_edge.runtime.bundle.manifest import FileInfo
from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.numbers.formats import QUANTIZED


def stored(folder: Path, tensors: dict[str, torch.Tensor]) -> list[LazyTensor]:
    save_file(tensors, folder / "model.safetensors")
    return list(read_safetensors(folder / "model.safetensors").values())


def written(folder: Path, sources: list[LazyTensor], dtype: str) -> tuple[dict[str, FileInfo], list[float]]:
    """Write all sources as `dtype`; return the files and the steps of progress."""
    steps: list[float] = []
    (folder / "bundle").mkdir()
    with SourceScan(sources) as scan:
        plan = plan_weights(sources, dtype, ())
        return write_store(plan, folder / "bundle", scan, steps.append, link=False), steps


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_those_of_the_checkpoint_in_the_type_of_the_export(tmp_path: Path, dtype: str) -> None:
    """A tensor of 9 MiB takes two reads, the store's digest is that of its bytes, and progress tells every byte."""
    tensors = {
        "large": torch.arange(9 << 18, dtype=torch.float32).reshape(9, -1) % 251,
        "small": torch.tensor([0.5, -2.0]),
    }
    files, steps = written(tmp_path, stored(tmp_path, tensors), dtype)
    path = tmp_path / "bundle" / STORE_NAME
    kind = getattr(torch, dtype)
    found = load_file(path)
    assert sorted(found) == ["large", "small"]
    for name, values in tensors.items():
        assert found[name].dtype == kind
        torch.testing.assert_close(found[name], values.to(kind), rtol=0, atol=0)
    content = path.read_bytes()
    assert files == {STORE_NAME: FileInfo(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())}
    assert sum(steps) == (9 * (1 << 18) + 2) * kind.itemsize


@pytest.mark.parametrize(
    ("values", "count"), [([1.0, float("nan"), float("inf")], 2), ([1e5, 1.0, -1e5], 2), ([65504.0, 1.0, 0.0], 0)]
)
def test_values_that_the_type_does_not_hold_are_counted(tmp_path: Path, values: list[float], count: int) -> None:
    sources = stored(tmp_path, {"w": torch.tensor(values)})
    if not count:
        written(tmp_path, sources, "float16")
        return
    with pytest.raises(CheckpointError) as caught:
        written(tmp_path, sources, "float16")
    assert str(caught.value) == (
        f"weights as float16: NaN or infinite values in w ({count}); "
        "repair the checkpoint, or try --dtype bf16 if they only overflow fp16"
    )


@pytest.mark.parametrize(("bad", "more"), [(8, ""), (9, " and 1 more"), (12, " and 4 more")])
def test_eight_tensors_are_named_and_the_others_counted(tmp_path: Path, bad: int, more: str) -> None:
    sources = stored(tmp_path, {f"w{index:02}": torch.full((2,), float("nan")) for index in range(bad)})
    with pytest.raises(CheckpointError) as caught:
        written(tmp_path, sources, "float16")
    names = ", ".join(f"w{index:02} (2)" for index in range(8))
    assert f"values in {names}{more};" in str(caught.value)


def test_codes_stand_for_their_values_and_padding_is_left_out(tmp_path: Path) -> None:
    """Rows of 127, 254 and 0 times whole numbers have the scales 1 and 2, and the smallest one: nothing is rounded."""
    values = torch.tensor([[127.0, -5.0], [254.0, 6.0], [0.0, 0.0]])
    (base,) = stored(tmp_path, {"w": values})
    form = QUANTIZED["int8"].weights
    assert form is not None
    padded = torch.nn.functional.pad(values, (0, 0, 0, 5))
    scale = scale_of(amax_of(padded, form.granularity), form, "float32")
    quantized = QuantizedTensor(name="w", base=base, adjust=lambda x: x, scale=scale, form=form)
    assert (quantized.shape, quantized.dtype) == ((8, 2), "int8")
    assert quantized.torch().tolist() == [[127, -5], [127, 3], *[[0, 0]] * 6]
    torch.testing.assert_close(quantized.dequantized(), values, rtol=1e-6, atol=0)
