"""Runs of the QLLaMA kernels against NumPy, on the interpreter ("cpu") or a device ("cuda")."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from internvl_edge.export.plugins.kernels import combine, qllama_attention, qllama_decode
from tests.parity.plugins import exact_interpreter
from tests.parity.plugins import qllama_attention_reference as reference
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
from tests.tolerances import KERNEL_CODES_APART, KERNEL_RELATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(KernelCase):
    """One launch of `qllama_attention`, or of `qllama_decode` and `combine` where `splits` is not 0."""

    head_dim: int = 32
    rows: int = 1
    past: int = 0
    spare: int = 0
    """Rows of the cache behind the last one."""
    cache: str = ""
    """Type of the cache; empty: none is kept."""
    copy: bool = False
    causal: bool = False
    packed: bool = False
    positions: bool = False
    """Shuffled places instead of places in order."""
    mask: str = ""
    """``padding`` at the end, ``holes`` anywhere, ``one`` key left, ``none`` at all left; empty: no mask given."""
    splits: int = 0
    query_tile: int = 16

    @property
    def total(self) -> int:
        """Return the rows that the new ones may see."""
        return self.past + self.rows


QUERIES = Case(id="queries", batch=2, rows=37, type="fp16")
CASES = (
    QUERIES,
    Case(id="queries-kept", batch=2, rows=37, cache="fp16", packed=True),
    Case(id="text", batch=3, rows=41, causal=True, mask="padding"),
    Case(id="text-hole-bf16", batch=2, rows=23, causal=True, mask="holes", type="bf16", out="bf16"),
    Case(id="matching", batch=2, rows=50, mask="padding", packed=True, key_tile=32),
    Case(id="prompt", batch=2, rows=5, past=35, spare=8, cache="fp16", causal=True, mask="padding", positions=True),
    Case(id="prompt-tiles", batch=1, rows=35, past=19, spare=3, cache="bf16", causal=True, type="bf16", out="bf16"),
    Case(id="prompt-copied", batch=2, rows=21, past=33, cache="fp16", copy=True, causal=True, mask="holes"),
    Case(id="prompt-no-past", rows=7, spare=9, cache="fp16", causal=True),
    Case(id="one-row", rows=1, past=18, cache="fp16", causal=True, spare=2),
    Case(id="one-key", rows=19, past=20, cache="fp16", mask="one", spare=1),
    Case(id="no-key", rows=19, past=20, cache="fp16", mask="none"),
    Case(id="near-fp16-limit", rows=33, amplitude=24.0, head_dim=128, heads=1, causal=True),
    Case(id="int8-cache", batch=2, rows=9, past=20, spare=4, cache="int8", causal=True),
    Case(id="int8-all", batch=2, rows=9, past=20, spare=4, type="int8", cache="int8", out="int8", causal=True),
    Case(id="int8-no-cache", batch=2, rows=26, type="int8", out="int8"),
    Case(id="fp8-cache", batch=2, rows=9, past=40, spare=4, cache="fp8", causal=True, key_tile=32),
    Case(id="fp8-all", batch=2, rows=9, past=40, type="fp8", cache="fp8", out="fp8", causal=True, key_tile=32),
    Case(id="fp8-no-cache", batch=1, rows=35, type="fp8", out="fp16", key_tile=32),
    Case(id="decode", batch=3, past=53, spare=5, cache="fp16", splits=4, mask="padding", positions=True),
    Case(id="decode-whole", batch=2, past=37, spare=5, cache="fp16", splits=1, packed=True),
    Case(id="decode-first", past=0, spare=5, cache="bf16", type="bf16", out="bf16", splits=2),
    Case(id="decode-empty-splits", past=17, cache="fp16", splits=8),
    Case(id="decode-copied", batch=2, past=50, cache="fp16", splits=2, copy=True, mask="holes"),
    Case(id="decode-one-key", past=40, cache="fp16", splits=2, mask="one"),
    Case(id="decode-no-key", past=40, cache="fp16", splits=2, mask="none"),
    Case(id="decode-near-limit", past=40, cache="fp16", splits=2, head_dim=128, heads=1, amplitude=24.0),
    Case(id="decode-int8", batch=2, past=40, cache="int8", splits=2),
    Case(id="decode-int8-all", batch=2, past=40, cache="int8", type="int8", out="int8", splits=2),
    Case(id="decode-fp8-all", batch=2, past=40, cache="fp8", type="fp8", out="fp8", splits=1),
    *(
        Case(id=f"large-{name}", heads=32, head_dim=128, query_tile=64, key_tile=64, large=True, **sizes)
        for name, sizes in {
            "queries": {"batch": 8, "rows": 96, "cache": "fp16", "packed": True},
            "text": {"batch": 8, "rows": 80, "causal": True, "mask": "padding"},
            "text-bf16": {"batch": 8, "rows": 80, "causal": True, "mask": "padding", "type": "bf16", "out": "bf16"},
            "matching": {"batch": 4, "rows": 176, "mask": "padding"},
            "prompt": {"batch": 5, "rows": 9, "past": 96, "spare": 151, "cache": "fp16", "causal": True},
            "chunk": {"rows": 1000, "past": 777, "cache": "fp16", "causal": True, "spare": 271},
            "fp8": {"batch": 2, "rows": 96, "past": 96, "cache": "fp8", "type": "fp8", "out": "fp8", "causal": True},
            "int8": {"batch": 2, "rows": 96, "past": 96, "cache": "int8", "type": "int8", "out": "int8"},
        }.items()
    ),
    *(
        Case(
            id=f"large-prompt-copied-{rows}-{stages}", large=True, heads=32, head_dim=128, rows=rows, past=96,
            cache="fp16", copy=True, causal=True, query_tile=128, key_tile=64, warps=8, stages=stages,
        )
        for rows in (8, 40) for stages in (1, 2, 3)
    ),
    *(
        Case(id=f"large-decode-{name}", heads=32, head_dim=128, key_tile=16, splits=8, stages=3, large=True, **sizes)
        for name, sizes in {
            "beams": {"batch": 5, "past": 127, "spare": 128, "cache": "fp16", "mask": "padding"},
            "long": {"batch": 8, "past": 1999, "spare": 48, "cache": "fp16"},
            "copied": {"batch": 5, "past": 127, "cache": "fp16", "copy": True},
            "fp8": {"batch": 5, "past": 127, "cache": "fp8", "out": "fp8"},
            "int8": {"batch": 5, "past": 127, "cache": "int8", "out": "int8"},
        }.items()
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What one case hands to the kernels, on the CPU; `values` tells what a tensor stands for."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    keys: torch.Tensor
    kept: torch.Tensor
    """The past of `key_cache` and `value_cache`, ``[B, H, past, D]``."""
    scales: torch.Tensor

    def value(self, name: str, scale: int) -> np.ndarray:
        """Return the numbers that tensor `name` stands for, its codes times number `scale` of the scales."""
        tensor = getattr(self, name)
        wide = tensor.double().numpy()
        return wide * float(self.scales[scale]) if tensor.element_size() == 1 else wide


def make_inputs(case: Case, seed: int = 5) -> Inputs:
    """Return random inputs: normal numbers, padding, places and scales as `case` wants them."""
    rng = np.random.default_rng(seed)
    shape = case.batch, case.rows, case.heads * case.head_dim
    q, k, v = (rng.normal(size=shape) * s for s in (case.amplitude, case.amplitude, 1.0))
    past = case.batch, case.heads, case.past, case.head_dim
    keys, kept = rng.normal(size=past) * case.amplitude, rng.normal(size=past)
    places = case.total + 3
    order = np.stack([rng.permutation(places)[: case.rows] for _ in range(case.batch)])
    positions = order if case.positions else np.tile(case.past + np.arange(case.rows), (case.batch, 1))
    cos, sin = (torch.tensor(t).to(TYPES[case.wide]) for t in reference.rotary_tables(places, case.head_dim))
    scales = np.ones(6, np.float32)
    for index, (type_, reach) in enumerate(
        [(case.type, 4 * case.amplitude)] * 2
        + [(case.type, 4.0), (case.cache, 5 * case.amplitude), (case.cache, 4.0), (case.out, 2.0)]
    ):
        scales[index] = reach / LARGEST_CODE.get(type_, reach)
    return Inputs(
        q=coded(q, case.type, scales[0]), k=coded(k, case.type, scales[1]), v=coded(v, case.type, scales[2]),
        keys=coded(keys, case.cache or case.wide, scales[3]), kept=coded(kept, case.cache or case.wide, scales[4]),
        cos=cos, sin=sin, positions=torch.tensor(positions), mask=make_mask(case, rng), scales=torch.tensor(scales),
    )  # fmt: skip


def make_mask(case: Case, rng: np.random.Generator) -> torch.Tensor | None:
    """Return ids ``[B, total]``, 0 where a key is padding."""
    if not case.mask:
        return None
    keep = rng.integers(1, 40000, size=(case.batch, case.total))
    if case.mask == "padding":
        for row in keep[1:]:
            row[rng.integers(1, case.total + 1) :] = 0
    elif case.mask == "holes":
        keep *= rng.random(keep.shape) < 0.6
    else:
        keep *= 0
        if case.mask == "one":
            keep[np.arange(case.batch), rng.integers(0, max(case.past, 1), case.batch)] = 7
    return torch.tensor(keep)


def as_stored(x: np.ndarray, type_: str, scale: float) -> np.ndarray:
    """Return `x` as it reads after being stored in a type of `TYPES`."""
    stored = coded(x, type_, scale).double().numpy()
    return np.asarray(stored * scale if type_ in CODED else stored)


def expected(case: Case, inputs: Inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the result ``[B, n, H*D]``, and keys and values of past and new rows ``[B, H, total, D]``."""
    scales = inputs.scales.numpy().astype(np.float64)
    q, k, v = (
        reference.split_heads(inputs.value(name, index), case.heads) for index, name in enumerate(("q", "k", "v"))
    )
    cos, sin, positions = inputs.cos.double().numpy(), inputs.sin.double().numpy(), inputs.positions.numpy()
    q = as_stored(reference.rotate(q, cos, sin, positions), case.wide, 1.0)
    k = as_stored(reference.rotate(k, cos, sin, positions), case.cache or case.wide, scales[3])
    v = as_stored(v, case.cache, scales[4]) if case.cache else v
    keys = np.concatenate([inputs.value("keys", 3), k], axis=2)
    values = np.concatenate([inputs.value("kept", 4), v], axis=2)
    keep = inputs.mask.numpy() if inputs.mask is not None else None
    allowed = reference.may_see(case.rows, case.past, keep, causal=case.causal or bool(case.splits))
    return reference.attend(q, keys, values, allowed), keys, values


def run_case(case: Case, device: str, seed: int = 5) -> float:
    """Return the largest error of the result as a share of its bound.

    Raises:
        AssertionError: the bound is passed, an element is NaN or was not written, or the cache was changed elsewhere.
    """
    if device == "cpu":
        exact_interpreter.correct()
    inputs = make_inputs(case, seed)
    out, key_out, value_out = launch(case, inputs, device)()
    want, keys, values = expected(case, inputs)
    scales = inputs.scales.numpy().astype(np.float64)

    fp8_weights = "fp8" in (case.cache or case.type) and not case.splits
    share = largest_share(case, out, want, float(scales[5]), fp8_weights=fp8_weights)
    if case.cache:
        check_cache(case, key_out, inputs.keys, keys, scales[3])
        check_cache(case, value_out, inputs.kept, values, scales[4])
    return share


def check_cache(case: Case, got: torch.Tensor, past: torch.Tensor, want: np.ndarray, scale: float) -> None:
    """Check that past rows kept their bits, new rows are `want`, and rows behind kept the poison."""
    got = got.cpu()
    bits = torch.uint8 if got.element_size() == 1 else torch.int16
    assert torch.equal(got[:, :, : case.past].view(bits), past.view(bits)), f"{case.id}: the past changed"
    behind = got[:, :, case.total :].view(bits)
    assert torch.equal(behind, poison(behind.shape, got.dtype, "cpu").view(bits)), (
        f"{case.id}: wrote behind the last row"
    )
    new = got[:, :, case.past : case.total].double().numpy() * (scale if case.cache in CODED else 1.0)
    wanted = want[:, :, case.past :]
    step = {"int8": scale, "fp8": np.maximum(np.abs(wanted) / 8, scale * 2.0**-9)}.get(case.cache)
    allowed = (
        KERNEL_CODES_APART * step
        if step is not None
        else np.maximum(np.abs(wanted), 1e-3) * KERNEL_RELATIVE[case.cache] / 3
    )
    off = np.abs(new - wanted) - allowed
    assert not np.isnan(new).any(), f"{case.id}: a new row of the cache has NaN"
    assert off.max() <= 0, f"{case.id}: a new row of the cache is off by {off.max()} beyond its bound"


Result = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""What was attended, and the caches of keys and values."""


def launch(case: Case, inputs: Inputs, device: str) -> Callable[[], Result]:
    """Return the launch of the kernels, which gives the result and the caches.

    Their memory holds poison where nothing is to be read.
    """
    out = poison((case.batch, case.rows, case.heads * case.head_dim), TYPES[case.out], device)
    key_cache = value_cache = key_out = value_out = None
    capacity = case.total + case.spare
    if case.cache:
        shape = case.batch, case.heads, capacity, case.head_dim
        key_cache, value_cache = (poison(shape, TYPES[case.cache], device) for _ in range(2))
        for cache, past in ((key_cache, inputs.keys), (value_cache, inputs.kept)):
            bits = torch.uint8 if cache.element_size() == 1 else torch.int16
            cache.view(bits)[:, :, : case.past] = past.view(bits).to(device)
        key_out, value_out = key_cache, value_cache
        if case.copy:
            shape = case.batch, case.heads, case.total, case.head_dim
            key_out, value_out = (poison(shape, TYPES[case.cache], device) for _ in range(2))
    q, k, v = inputs.q, inputs.k, inputs.v
    if case.packed:
        q = torch.cat([q, k, v], dim=2)
    coded_somewhere = {case.type, case.cache, case.out} & set(CODED)
    shared = (
        q.to(device), None if case.packed else k.to(device), None if case.packed else v.to(device),
        inputs.cos.to(device), inputs.sin.to(device),
        inputs.positions.to(device) if case.positions else None,
        inputs.mask.to(device) if inputs.mask is not None else None,
    )  # fmt: skip
    scales = inputs.scales.to(device) if coded_somewhere else None
    if case.splits:
        step = decode_step(case, (*shared, key_cache, value_cache), scales, (key_out, value_out), out)
        return lambda: (step(), (out, key_out, value_out))[1]
    past = (key_cache, value_cache) if case.past else (None, None)
    grid = qllama_attention.grid(case.batch, case.rows, case.heads, case.query_tile)

    def run() -> Result:
        qllama_attention.qllama_attention[grid](
            *shared, *past, scales, case.rows, case.total, capacity, key_out, value_out, out,
            HEADS=case.heads, D=case.head_dim, CAUSAL=case.causal, COPY=case.copy,
            BM=case.query_tile, BN=case.key_tile, num_warps=case.warps, num_stages=case.stages,
        )  # fmt: skip
        return out, key_out, value_out

    return run


Caches = tuple[torch.Tensor | None, torch.Tensor | None]


def decode_step(
    case: Case, inputs: tuple[torch.Tensor | None, ...], scales: torch.Tensor | None, kept: Caches, out: torch.Tensor
) -> Callable[[], None]:
    """Return the launch of the two kernels of a decode step, or of the one where the past is not split."""
    split = case.splits > 1
    device = str(out.device)
    partial = poison((case.batch, case.heads, case.splits, case.head_dim), torch.float32, device) if split else out
    stats = poison((case.batch, case.heads, case.splits, 2), torch.float32, device) if split else None
    cache = inputs[-2]
    assert cache is not None
    capacity = cache.shape[2]

    def run() -> None:
        qllama_decode.qllama_decode[qllama_decode.grid(case.batch, case.heads, case.splits)](
            *inputs, scales, case.total, capacity, *kept, partial, stats,
            HEADS=case.heads, D=case.head_dim, COPY=case.copy, SPLITS=case.splits,
            BN=case.key_tile, STAGES=case.stages, num_warps=case.warps,
        )  # fmt: skip
        if split:
            combine.combine[combine.grid(case.batch, case.heads)](
                partial, stats, scales, out, HEADS=case.heads, D=case.head_dim, SPLITS=case.splits, SCALE=5,
                num_warps=case.warps,
            )  # fmt: skip

    return run


def torch_attention(case: Case, inputs: Inputs, device: str) -> Callable[[], torch.Tensor]:
    """Return the same by torch's own operators, present concatenated as the graph has it, in 16 bits."""
    import torch.nn.functional as F

    q, k, v, cos, sin, positions, keys, kept = (
        getattr(inputs, name).to(device) for name in ("q", "k", "v", "cos", "sin", "positions", "keys", "kept")
    )
    mask = inputs.mask.to(device) if inputs.mask is not None else None

    def rotated(x: torch.Tensor) -> torch.Tensor:
        c, s = (table[positions][:, None] for table in (cos, sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * c - b * s, b * c + a * s], dim=-1)

    def run() -> torch.Tensor:
        one, two, three = (x.unflatten(2, (case.heads, case.head_dim)).transpose(1, 2) for x in (q, k, v))
        one, two = rotated(one), rotated(two)
        if case.past:
            two, three = torch.cat([keys, two], dim=2), torch.cat([kept, three], dim=2)
        allowed = None
        if mask is not None:
            allowed = (mask > 0)[:, None, None, :]
        if case.causal and case.rows > 1:
            causal = torch.ones(case.rows, case.total, dtype=torch.bool, device=device).tril(case.past)
            allowed = causal if allowed is None else allowed & causal
        return F.scaled_dot_product_attention(one, two, three, allowed).transpose(1, 2).flatten(2)

    return run


def timings(device: str) -> dict[str, Timed]:
    """Return our launches and torch's at true sizes; tensors are made by the first run."""
    full = {"heads": 32, "head_dim": 128, "query_tile": 64, "key_tile": 64}
    step = {"heads": 32, "head_dim": 128, "key_tile": 16, "cache": "fp16", "stages": 3, "warps": 2}
    cases = [
        Case(id="queries, batch 1", rows=96, cache="fp16", packed=True, **full),
        Case(id="queries, batch 8", batch=8, rows=96, cache="fp16", packed=True, **full),
        Case(id="text, batch 8", batch=8, rows=80, causal=True, mask="padding", **full),
        Case(id="matching, batch 4", batch=4, rows=176, mask="padding", **full),
        Case(id="prompt of 8, batch 1", rows=8, past=96, cache="fp16", spare=64, causal=True, **full),
        *(
            Case(
                id=f"step, batch {batch}, past {past}, {splits} splits",
                batch=batch,
                past=past,
                splits=splits,
                spare=9,
                **step,
            )
            for batch, past in ((1, 120), (5, 120), (8, 2000))
            for splits in (1, 4, 8)
        ),
    ]
    return {case.id: (_lazy(launch, case, device), _lazy(torch_attention, case, device)) for case in cases}


def _lazy(make: Callable[..., Callable[[], object]], case: Case, device: str) -> Callable[[], object]:
    made = cache(lambda: make(case, make_inputs(case), device))
    return lambda: made()()
