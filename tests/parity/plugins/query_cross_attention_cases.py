"""Runs of the cross-attention kernels against NumPy, on the interpreter ("cpu") or a device ("cuda")."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from internvl_edge.export.plugins.kernels import combine, query_cross_attention
from tests.parity.plugins import exact_interpreter, packed_attention
from tests.parity.plugins.kernel_cases import CODED, TYPES, KernelCase, Timed, largest_share, poison


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(KernelCase):
    """One launch of `query_cross_attention`, and one of `combine` behind it where `splits` is above 1."""

    queries: int = 24
    keys: int = 40
    head_dim: int = 32
    packed: bool = False
    """k and v side by side."""
    splits: int = 1
    query_tile: int = 32
    key_tile: int = 32


CASES = (
    Case(id="plain", batch=2),
    Case(id="packed", batch=2, packed=True, keys=33),
    Case(id="bf16", type="bf16", out="bf16", queries=40),
    Case(id="one-key", keys=1),
    Case(id="whole-tiles", keys=64, queries=32),
    Case(id="split", batch=2, keys=77, splits=2),
    Case(id="empty-splits", keys=40, splits=4),
    Case(id="packed-split-bf16", keys=70, splits=2, packed=True, type="bf16", out="bf16"),
    Case(id="near-fp16-limit", amplitude=24.0, head_dim=128, heads=1, splits=2, keys=70),
    Case(id="int8", type="int8", out="int8"),
    Case(id="int8-split", type="int8", out="int8", splits=2, keys=70, packed=True),
    Case(id="fp8", type="fp8", out="fp8"),
    Case(id="fp8-split", type="fp8", out="fp16", splits=2, keys=70),
    Case(id="int8-out", out="int8", splits=2, keys=70),
    *(
        Case(
            id=f"large-{name}", queries=96, heads=32, head_dim=128, query_tile=64, key_tile=64, large=True, **sizes
        )
        for name, sizes in {
            "224": {"batch": 2, "keys": 257, "splits": 2},
            "448": {"keys": 1025, "splits": 8},
            "batch-8": {"batch": 8, "keys": 577, "packed": True},
            "bf16": {"keys": 577, "splits": 4, "type": "bf16", "out": "bf16"},
            "int8": {"keys": 257, "splits": 2, "type": "int8", "out": "int8"},
            "fp8": {"keys": 257, "splits": 2, "type": "fp8", "out": "fp8"},
        }.items()
    ),
)  # fmt: skip


def run_case(case: Case, device: str, seed: int = 11) -> float:
    """Return the largest error of the result as a share of its bound.

    Raises:
        AssertionError: the bound is passed, or an element is NaN or was not written.
    """
    if device == "cpu":
        exact_interpreter.correct()
    tensors, scales = packed_attention.random_tensors(
        case.batch, case.queries, case.keys, case.heads * case.head_dim,
        kind=case.type, out=case.out, amplitude=case.amplitude, seed=seed,
    )  # fmt: skip
    want = packed_attention.attend(*packed_attention.values(tensors, scales), case.heads)
    got = launch(case, tensors, scales, device)()
    return largest_share(case, got, want, float(scales[3]), fp8_weights=case.type == "fp8")


def launch(case: Case, tensors: list[torch.Tensor], scales: torch.Tensor, device: str) -> Callable[[], torch.Tensor]:
    """Return the launch of the kernels, which gives the result, in memory that held poison."""
    q, k, v = (x.to(device) for x in tensors)
    pair = (torch.cat([k, v], dim=2), None) if case.packed else (k, v)
    coded = {case.type, case.out} & set(CODED)
    numbers = scales.to(device) if coded else None
    out = poison((case.batch, case.queries, case.heads * case.head_dim), TYPES[case.out], device)
    lanes = case.batch * case.queries, case.heads, case.splits
    split = case.splits > 1
    partial = poison((*lanes, case.head_dim), torch.float32, device) if split else out
    stats = poison((*lanes, 2), torch.float32, device) if split else None
    grid = query_cross_attention.grid(case.batch, case.queries, case.heads, case.query_tile, case.splits)

    def run() -> torch.Tensor:
        query_cross_attention.query_cross_attention[grid](
            q, *pair, numbers, case.queries, case.keys, partial, stats, HEADS=case.heads, D=case.head_dim,
            SPLITS=case.splits, BM=case.query_tile, BN=case.key_tile, num_warps=case.warps, num_stages=case.stages,
        )  # fmt: skip
        if split:
            combine.combine[combine.grid(case.batch * case.queries, case.heads)](
                partial, stats, numbers if case.out in CODED else None, out,
                HEADS=case.heads, D=case.head_dim, SPLITS=case.splits, SCALE=3,
            )  # fmt: skip
        return out

    return run


def torch_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the same by torch's own operators."""
    q, k, v = (x.unflatten(2, (heads, x.shape[2] // heads)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def timings(device: str) -> dict[str, Timed]:
    """Return our launches and torch's at true sizes; tensors are made by the first run."""
    found: dict[str, Timed] = {}
    for (batch, keys), splits, tile in product(((1, 257), (1, 1025), (8, 257)), (1, 2, 4, 8), (32, 64)):
        case = Case(
            id="", batch=batch, queries=96, keys=keys, heads=32, head_dim=128, splits=splits, query_tile=tile,
            key_tile=64, stages=3,
        )  # fmt: skip

        @cache
        def tensors(case: Case = case) -> list[torch.Tensor]:
            width = case.heads * case.head_dim
            sizes = (case.queries, case.keys, case.keys)
            return [torch.randn(case.batch, rows, width, device=device, dtype=torch.float16) for rows in sizes]

        ours = cache(lambda case=case, tensors=tensors: launch(case, tensors(), torch.ones(4), device))
        found[f"batch {batch}, {keys} keys, {splits} splits, {tile} x 64"] = (
            lambda ours=ours: ours()(),
            lambda tensors=tensors: torch_attention(*tensors(), 32),
        )
    return found
