"""A product with a matrix that is read in parts is the product with the whole, in torch and in ONNX."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from internvl_edge.export.blockwise import large_matrices
from internvl_edge.export.blockwise.large_matrices import SplitLargeMatricesPass, large_matrix
from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.blockwise.streamed import run_streamed
from internvl_edge.export.models.config import LanguageConfig
from internvl_edge.export.models.language import TokenTable
from tests.unit.export.dialects.small_graphs import load

ROWS, WIDTH = 23, 4
GRAPH = """g (float[b, n, 4] x, float16[23, 4] w) => (float[b, n, 23] y) {
  [turned] wt = Transpose<perm = [1, 0]>(w)
  [widened] wide = Cast<to = 1>(wt)
  [head] y = MatMul(x, wide)
}"""
TABLE = LanguageConfig(
    family="llama",
    hidden_size=WIDTH,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    num_layers=1,
    intermediate_size=4,
    vocab_size=ROWS,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 5 rows, and everything of more than 40 values is large."""
    monkeypatch.setattr(large_matrices, "LARGE_VALUES", 40)
    monkeypatch.setattr(large_matrices, "PART_VALUES", 5 * WIDTH)


@pytest.fixture
def matrix(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(ROWS, WIDTH)).astype(np.float16)


class Net(nn.Module):
    """A norm and a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH) if isinstance(head, nn.Linear) else nn.Identity()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(x) if x.is_floating_point() else x)
        return found


def stored(matrix: np.ndarray, asked: list[int]) -> object:
    def fetch(name: str, out: Tensor, skipped: int = 0) -> None:
        asked.append(out.numel())
        values = np.ones(WIDTH, np.float32) if name == "norm.weight" else matrix.astype(np.float32).ravel()
        out.view(-1).copy_(torch.from_numpy(values[skipped : skipped + out.numel()]))

    return fetch


def test_torch_reads_a_part_of_the_rows_at_a_time(matrix: np.ndarray) -> None:
    with torch.device("meta"):
        net = Net(nn.Linear(WIDTH, ROWS, bias=False))
    x, asked = torch.randn(2, 3, WIDTH), list[int]()
    (found,) = run_streamed(net, stored(matrix, asked), x)  # type: ignore[arg-type]
    expected = torch.nn.functional.rms_norm(x, (WIDTH,)) @ torch.from_numpy(matrix.astype(np.float32)).T
    torch.testing.assert_close(found, expected)
    assert sorted(asked) == [WIDTH, 3 * WIDTH, *[5 * WIDTH] * 4]
    assert net.head.weight.is_meta
    assert "forward" not in vars(net.head)


def test_rows_of_ids_come_from_their_parts(matrix: np.ndarray) -> None:
    with torch.device("meta"):
        net = Net(TokenTable(TABLE))
    ids = torch.tensor([[0, 4, 5], [22, 21, 5]])
    (found,) = run_streamed(net, stored(matrix, []), ids)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.numpy(), matrix.astype(np.float32)[ids.numpy()])


def test_what_has_a_bias_or_is_small_is_read_whole() -> None:
    assert not large_matrix(nn.Linear(WIDTH, ROWS))
    assert not large_matrix(nn.Linear(WIDTH, 10, bias=False))
    assert not large_matrix(nn.Sequential(nn.Linear(WIDTH, ROWS, bias=False), nn.Linear(WIDTH, ROWS, bias=False)))


def graph(matrix: np.ndarray, folder: Path, text: str = GRAPH) -> ir.Model:
    """Return the graph with its matrix as external data behind other bytes."""
    (folder / "weights").write_bytes(b"before" + matrix.tobytes())
    model = load(text, w=matrix)
    shape = ir.Shape(matrix.shape)
    tensor = ir.ExternalTensor("weights", 6, matrix.nbytes, ir.DataType.FLOAT16, shape=shape, name="w")
    model.graph.initializers["w"].const_value = tensor
    return model


def test_onnx_reads_a_part_in_each_segment(matrix: np.ndarray, tmp_path: Path, rng: np.random.Generator) -> None:
    model = graph(matrix, tmp_path)
    assert SplitLargeMatricesPass()(model).modified
    assert not SplitLargeMatricesPass()(model).modified
    segments = cut(model.graph)
    assert [part.weight_bytes for part in segments] == [40, 40, 40, 40, 24, 0]
    x = rng.normal(size=(2, 3, WIDTH)).astype(np.float32)
    found = run_segments(ir.to_proto(model), segments, tmp_path, {"x": x})
    np.testing.assert_allclose(found["y"], x @ matrix.astype(np.float32).T, rtol=1e-6, atol=1e-6)
    assert list(model.graph.initializers) == [f"w/{index}" for index in range(5)]


@pytest.mark.parametrize(
    "text",
    [
        GRAPH.replace("y = MatMul(x, wide)", "r = Relu(wide)\n  [two] y = MatMul(x, r)"),
        GRAPH.replace("=> (float[b, n, 23] y)", "=> (float[b, n, 23] y, float[4, 23] wide)"),
    ],
)
def test_a_matrix_that_something_else_reads_or_changes_stays(matrix: np.ndarray, tmp_path: Path, text: str) -> None:
    assert not SplitLargeMatricesPass()(graph(matrix, tmp_path, text)).modified
