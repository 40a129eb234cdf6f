"""Runs of the InternViT kernels against NumPy, on the interpreter ("cpu") or a device ("cuda")."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch

from internvl_edge.export.plugins.kernels import qk_norm, vit_attention
from tests.parity.plugins import exact_interpreter
from tests.parity.plugins import vit_attention_reference as reference
from tests.parity.plugins.kernel_cases import (
    CODED,
    LARGEST_CODE,
    TYPES,
    KernelCase,
    Timed,
    coded,
    largest_share,
    poison,
)

EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(KernelCase):
    """One launch of `vit_attention`, behind one of `qk_norm` where `norm`."""

    rows: int = 40
    head_dim: int = 64
    norm: bool = True
    lone: bool = False
    """One key stands out by far: its weight is all but 1."""
    query_tile: int = 32
    key_tile: int = 32


CASES = (
    Case(id="6b", batch=2, rows=77, heads=3),
    Case(id="6b-128", rows=65, head_dim=128, heads=1),
    Case(id="6b-bf16", batch=2, rows=33, type="bf16", out="bf16"),
    Case(id="300m", batch=3, rows=50, norm=False),
    Case(id="300m-bf16", rows=31, norm=False, type="bf16", out="bf16"),
    Case(id="one-row", rows=1),
    Case(id="whole-tiles", rows=64),
    Case(id="lone-key", rows=45, norm=False, lone=True),
    Case(id="near-fp16-limit", rows=45, norm=False, amplitude=24.0, heads=1, head_dim=128),
    Case(id="large-before-norm", rows=45, amplitude=300.0),
    Case(id="int8", batch=2, rows=50, type="int8", out="int8"),
    Case(id="int8-plain", rows=50, norm=False, type="int8", out="int8"),
    Case(id="int8-out", rows=50, out="int8"),
    Case(id="fp8", rows=50, type="fp8", out="fp8"),
    Case(id="fp8-plain", rows=50, norm=False, type="fp8", out="fp16"),
    Case(id="fp8-out", rows=50, out="fp8"),
    Case(id="lone-key-fp8", rows=45, norm=False, type="fp8", lone=True),
    Case(id="224-px", rows=257, heads=1),
    *(
        Case(id=f"large-{name}", query_tile=128, key_tile=64, warps=8, large=True, **sizes)
        for name, sizes in {
            "6b": {"batch": 2, "rows": 1025, "heads": 25, "head_dim": 128},
            "6b-bf16": {"batch": 1, "rows": 677, "heads": 25, "head_dim": 128, "type": "bf16", "out": "bf16"},
            "6b-224": {"batch": 8, "rows": 257, "heads": 25, "head_dim": 128},
            "6b-int8": {"batch": 1, "rows": 577, "heads": 25, "head_dim": 128, "type": "int8", "out": "int8"},
            "6b-fp8": {"batch": 1, "rows": 577, "heads": 25, "head_dim": 128, "type": "fp8", "out": "fp8"},
            "300m": {"batch": 2, "rows": 1025, "heads": 16, "head_dim": 64, "norm": False},
            "300m-int8": {"batch": 1, "rows": 1025, "heads": 16, "norm": False, "type": "int8", "out": "int8"},
            "300m-fp8": {"batch": 1, "rows": 1025, "heads": 16, "norm": False, "type": "fp8", "out": "fp8"},
        }.items()
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What one case hands to the kernels, on the CPU."""

    qkv: torch.Tensor
    gains: tuple[torch.Tensor, torch.Tensor] | None
    scales: torch.Tensor

    def values(self) -> np.ndarray:
        """Return the numbers that `qkv` stands for."""
        wide = self.qkv.double().numpy()
        if self.qkv.element_size() > 1:
            return wide
        parts = np.split(wide, 3, axis=-1)
        return np.concatenate([part * float(scale) for part, scale in zip(parts, self.scales, strict=False)], axis=-1)


def make_inputs(case: Case, seed: int = 7) -> Inputs:
    """Return random inputs: normal numbers, codes by a scale each of q, k and v."""
    rng = np.random.default_rng(seed)
    shape = case.batch, case.rows, case.heads * case.head_dim
    q, k, v = (rng.normal(size=shape) * s for s in (case.amplitude, case.amplitude, 1.0))
    if case.lone:
        q, k[:, 3] = np.abs(q), 8.0
    reaches = [(case.type, 4 * case.amplitude)] * 2 + [(case.type, 4.0), (case.out, 2.0)]
    scales = np.array([reach / LARGEST_CODE.get(kind, reach) for kind, reach in reaches], np.float32)
    parts = [coded(x, case.type, scale) for x, scale in zip((q, k, v), scales, strict=False)]
    gains = None
    if case.norm:
        gains = tuple(torch.tensor(rng.normal(1.0, 0.3, size=shape[-1])).to(TYPES[case.wide]) for _ in range(2))
    return Inputs(qkv=torch.cat(parts, dim=2), gains=gains, scales=torch.tensor(scales))  # type: ignore[arg-type]


def run_case(case: Case, device: str, seed: int = 7) -> float:
    """Return the largest error of the result as a share of its bound.

    Raises:
        AssertionError: the bound is passed, or an element is NaN or was not written.
    """
    if device == "cpu":
        exact_interpreter.correct()
    inputs = make_inputs(case, seed)
    gains = tuple(g.double().numpy() for g in inputs.gains) if inputs.gains is not None else None
    want = reference.attention(inputs.values(), case.heads, gains, EPS)  # type: ignore[arg-type]
    fp8_weights = case.type == "fp8" and not case.lone  # a lone key has the weight 1, which FP8 holds exactly
    return largest_share(case, launch(case, inputs, device)(), want, float(inputs.scales[3]), fp8_weights=fp8_weights)


def launch(case: Case, inputs: Inputs, device: str) -> Callable[[], torch.Tensor]:
    """Return the launch of the kernels, which gives the result, in memory that held poison."""
    qkv = inputs.qkv.to(device)
    gains = [gain.to(device) for gain in inputs.gains] if inputs.gains is not None else [None, None]
    scales = inputs.scales.to(device) if {case.type, case.out} & set(CODED) else None
    statistics = poison((case.batch, case.rows, 2), torch.float32, device) if case.norm else None
    width = case.heads * case.head_dim
    out = poison((case.batch, case.rows, width), TYPES[case.out], device)

    def run() -> torch.Tensor:
        if case.norm:
            qk_norm.qk_norm[qk_norm.grid(case.batch, case.rows)](
                qkv, scales if case.type in CODED else None, statistics, WIDTH=width, EPS=EPS, BLOCK=1024
            )
        vit_attention.vit_attention[vit_attention.grid(case.batch, case.rows, case.heads, case.query_tile)](
            qkv, statistics, *gains, scales, case.rows, out, HEADS=case.heads, D=case.head_dim,
            BM=case.query_tile, BN=case.key_tile, num_warps=case.warps, num_stages=case.stages,
        )  # fmt: skip
        return out

    return run


def torch_attention(case: Case, inputs: Inputs, device: str) -> Callable[[], torch.Tensor]:
    """Return the same by torch's own operators, in 16 bits."""
    import torch.nn.functional as F

    qkv = inputs.qkv.to(device)
    gains = [gain.to(device) for gain in inputs.gains] if inputs.gains is not None else None

    def run() -> torch.Tensor:
        q, k, v = qkv.split(qkv.shape[2] // 3, dim=2)
        if gains is not None:
            q, k = (F.rms_norm(x, x.shape[-1:], gain, EPS) for x, gain in zip((q, k), gains, strict=True))
        q, k, v = (x.unflatten(2, (case.heads, case.head_dim)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return run


_TILES = ((128, 64, 8, 2), (128, 64, 4, 2), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 2), (64, 64, 4, 3))
"""Rows, keys, warps, stages."""


def timings(device: str) -> dict[str, Timed]:
    """Return our launches and torch's at true sizes, for each tile worth a try; tensors are made by the first run."""
    found: dict[str, Timed] = {}
    towers = {"6b": (25, 128, True), "300m": (16, 64, False)}
    for (name, (heads, head_dim, norm)), batch, tiles in product(towers.items(), (1, 8), _TILES):
        query_tile, key_tile, warps, stages = tiles
        case = Case(
            id=name, batch=batch, rows=1025, heads=heads, head_dim=head_dim, norm=norm,
            query_tile=query_tile, key_tile=key_tile, warps=warps, stages=stages,
        )  # fmt: skip
        label = f"{name} batch {batch}, {query_tile} x {key_tile}, {warps} warps, {stages} stages"
        found[label] = _lazy(launch, case, device), _lazy(torch_attention, case, device)
    return found


def _lazy(make: Callable[..., Callable[[], torch.Tensor]], case: Case, device: str) -> Callable[[], torch.Tensor]:
    made = cache(lambda: make(case, _random_inputs(case, device), device))
    return lambda: made()()


def _random_inputs(case: Case, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(7)
    width = case.heads * case.head_dim
    qkv = torch.randn(case.batch, case.rows, 3 * width, generator=generator, device=device, dtype=TYPES[case.type])
    gains = torch.randn(2, width, generator=generator, device=device, dtype=TYPES[case.type])
    return Inputs(qkv=qkv, gains=(gains[0], gains[1]) if case.norm else None, scales=torch.ones(4, device=device))
