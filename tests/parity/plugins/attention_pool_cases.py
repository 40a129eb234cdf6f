"""Runs of the pooling kernels against NumPy, on the interpreter ("cpu") or a device ("cuda")."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from internvl_edge.export.plugins.kernels import attention_pool, combine
from tests.parity.plugins import exact_interpreter, packed_attention
from tests.parity.plugins.kernel_cases import CODED, TYPES, KernelCase, Timed, largest_share, poison
from tests.parity.plugins.query_cross_attention_cases import torch_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(KernelCase):
    """One launch of `attention_pool`, and one of `combine` behind it where `splits` is above 1."""

    keys: int = 40
    head_dim: int = 40
    splits: int = 1


CASES = (
    Case(id="plain", batch=3),
    Case(id="power-of-two", head_dim=64),
    Case(id="bf16", type="bf16", out="bf16", keys=33),
    Case(id="one-key", keys=1),
    Case(id="split", batch=2, keys=77, splits=4),
    Case(id="empty-splits", keys=20, splits=4),
    Case(id="head-200", heads=1, head_dim=200, keys=50, splits=2),
    Case(id="head-256", heads=1, head_dim=256, keys=50),
    Case(id="near-fp16-limit", amplitude=24.0, head_dim=128, heads=1, splits=2, keys=70),
    Case(id="int8", type="int8", out="int8"),
    Case(id="fp8-split", type="fp8", out="fp8", splits=2),
    Case(id="int8-out", out="int8", splits=2),
    *(
        Case(id=f"large-{name}", heads=16, large=True, **sizes)
        for name, sizes in {
            "tower": {"batch": 2, "keys": 1025, "head_dim": 200, "splits": 8},
            "tower-224": {"batch": 8, "keys": 257, "head_dim": 200},
            "queries": {"batch": 2, "keys": 96, "head_dim": 256, "splits": 4},
            "bf16": {"keys": 577, "head_dim": 200, "splits": 4, "type": "bf16", "out": "bf16"},
            "fp8": {"keys": 577, "head_dim": 200, "splits": 4, "type": "fp8", "out": "fp8"},
        }.items()
    ),
)  # fmt: skip


def run_case(case: Case, device: str, seed: int = 13) -> float:
    """Return the largest error of the result as a share of its bound.

    Raises:
        AssertionError: the bound is passed, or an element is NaN or was not written.
    """
    if device == "cpu":
        exact_interpreter.correct()
    tensors, scales = packed_attention.random_tensors(
        case.batch, 1, case.keys, case.heads * case.head_dim,
        kind=case.type, out=case.out, amplitude=case.amplitude, seed=seed,
    )  # fmt: skip
    want = packed_attention.attend(*packed_attention.values(tensors, scales), case.heads)
    got = launch(case, tensors, scales, device)()
    return largest_share(case, got, want, float(scales[3]), fp8_weights=case.type == "fp8")


def launch(case: Case, tensors: list[torch.Tensor], scales: torch.Tensor, device: str) -> Callable[[], torch.Tensor]:
    """Return the launch of the kernels, which gives the result, in memory that held poison."""
    q, k, v = (x.to(device) for x in tensors)
    numbers = scales.to(device) if {case.type, case.out} & set(CODED) else None
    out = poison((case.batch, 1, case.heads * case.head_dim), TYPES[case.out], device)
    lanes = case.batch, case.heads, case.splits
    split = case.splits > 1
    partial = poison((*lanes, case.head_dim), torch.float32, device) if split else out
    stats = poison((*lanes, 2), torch.float32, device) if split else None

    def run() -> torch.Tensor:
        attention_pool.attention_pool[attention_pool.grid(case.batch, case.heads, case.splits)](
            q, k, v, numbers, case.keys, partial, stats, HEADS=case.heads, D=case.head_dim,
            SPLITS=case.splits, BN=case.key_tile, num_warps=case.warps, num_stages=case.stages,
        )  # fmt: skip
        if split:
            combine.combine[combine.grid(case.batch, case.heads)](
                partial, stats, numbers if case.out in CODED else None, out,
                HEADS=case.heads, D=case.head_dim, SPLITS=case.splits, SCALE=3,
            )  # fmt: skip
        return out

    return run


def timings(device: str) -> dict[str, Timed]:
    """Return our launches and torch's at true sizes; tensors are made by the first run."""
    found: dict[str, Timed] = {}
    for (batch, keys, head_dim), (splits, tile) in product(
        ((1, 1025, 200), (8, 1025, 200), (8, 257, 200), (1, 96, 256)), ((1, 16), (4, 16), (8, 16), (16, 16), (8, 32))
    ):
        case = Case(id="", batch=batch, keys=keys, heads=16, head_dim=head_dim, splits=splits, key_tile=tile)

        @cache
        def tensors(case: Case = case) -> list[torch.Tensor]:
            sizes = (1, case.keys, case.keys)
            width = case.heads * case.head_dim
            return [torch.randn(case.batch, rows, width, device=device, dtype=torch.float16) for rows in sizes]

        ours = cache(lambda case=case, tensors=tensors: launch(case, tensors(), torch.ones(4), device))
        found[f"batch {batch}, {keys} keys of {head_dim}, {splits} splits, {tile} lanes"] = (
            lambda ours=ours: ours()(),
            lambda tensors=tensors: torch_attention(*tensors(), 16),
        )
    return found
