"""Kernels compiled ahead of time, as in a plan, launched by the CUDA driver and compared with torch.

    python benchmarks/attention_ptx.py compile FILE.json --sm 90 [--every FAMILY]     # anywhere with Triton, no GPU
    python benchmarks/attention_ptx.py run FILE.json [RESULTS.json]                   # torch with CUDA; no Triton

`compile` takes the tiles of the table, or with ``--every`` all choices of a family; `run` prints the error, the
measured and the predicted time of each kernel.
"""

import argparse
import ctypes
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graph_time import microseconds

_RELATIVE = {"fp16": 4e-3, "bf16": 3e-2, "fp32": 1e-4, "int8": 4e-2, "fp8": 1e-1}
"""Tolerance by the type of the output, as a share of the largest expected value; 8-bit inputs increase it."""
_CODES_RELATIVE = 4e-2


def main() -> None:
    """Compile the kernels, or run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["compile", "run"])
    parser.add_argument("file", type=Path)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--sm", type=int, default=90)
    parser.add_argument("--every", action="append", default=[])
    options = parser.parse_args()
    if options.action == "compile":
        entries = list(_compiled(options.sm, options.every))
        options.file.write_text(json.dumps(entries), encoding="utf-8")
        print(f"{len(entries)} launches")
        return
    found = []
    for entry in json.loads(options.file.read_text(encoding="utf-8")):
        found.append(_ran(entry))
        print(_line(found[-1]), flush=True)
    if options.results is not None:
        options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _compiled(sm: int, every: list[str]) -> Iterator[dict[str, Any]]:
    from internvl_edge.export.plugins.compile_kernel import compile_kernel
    from internvl_edge.export.plugins.families import FAMILIES
    from internvl_edge.export.plugins.tiling.occupancy import fits
    from internvl_edge.export.plugins.tiling.tiles_model import predicted_us
    from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import evaluate

    for family in FAMILIES:
        for types, attributes in family.variants:
            launches = family.launches(types, attributes, sm)
            if family.name in every:
                launches = [family.launch(types, attributes, tiles) for tiles in family.choices]
            for launch in launches:
                kernel = compile_kernel(launch, sm)
                if not fits(kernel):
                    continue
                for sizes in family.typical:
                    yield {
                        "family": family.name,
                        "attributes": dict(attributes),
                        "sizes": dict(sizes),
                        "tiles": f"{dict(launch.constants)} {launch.warps} warps {launch.stages} stages",
                        "inputs": [[tensor.name, tensor.type] for tensor in launch.inputs],
                        "integers": [sizes.get(name, sizes.get("TOTAL")) for name in launch.integers],
                        "outputs": [asdict(tensor) for tensor in launch.outputs],
                        "grid": [evaluate(axis, {}) for axis in launch.grid(sizes)],
                        "entry": kernel.entry,
                        "ptx": kernel.ptx,
                        "threads": kernel.threads,
                        "shared_bytes": kernel.shared_bytes,
                        "predicted_us": predicted_us(kernel, family.work(launch, sizes), launch.stages),
                    }


def _ran(entry: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    record = {name: entry[name] for name in ("family", "attributes", "sizes", "tiles", "predicted_us")}
    record["types"] = "/".join(dict.fromkeys(kind for _, kind in entry["inputs"]))
    try:
        inputs = _inputs(entry)
        outputs = {tensor["name"]: _poison(tensor, entry) for tensor in entry["outputs"]}
        function = _function(entry)
        arguments = _arguments([*inputs.values()], entry["integers"], [*outputs.values()])
        _launch(function, entry, arguments)
        torch.cuda.synchronize()
        record |= _compared(entry, inputs, outputs)
        record["us"] = microseconds(lambda: _launch(function, entry, arguments))
    except Exception as error:
        record["failed"] = f"{type(error).__name__}: {error}"[:600]
    return record


def _inputs(entry: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    generator = torch.Generator("cuda").manual_seed(3)
    kinds = dict(entry["inputs"])
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        shape = _shape(name, entry)
        if name == "positions":
            start = entry["sizes"]["TOTAL"] - shape[1]
            made[name] = (start + torch.arange(shape[1], device="cuda")).expand(shape).contiguous()
        elif name == "mask":
            made[name] = torch.ones(shape, dtype=torch.int64, device="cuda")
        elif name == "statistics":
            made[name] = _statistics(made["qkv"], made.get("scales", _scales(kinds)), kinds["qkv"])
        elif name == "scales":
            made[name] = _scales(kinds)
        elif name in ("cos", "sin"):
            angles = torch.outer(torch.arange(shape[0]), 1e4 ** (-torch.arange(shape[1]) / shape[1]))
            made[name] = getattr(angles, name)().to(_dtype(kind)).cuda()
        elif name == "stats":
            made[name] = torch.rand(shape, generator=generator, device="cuda") + 0.5
        else:
            normal = torch.randn(shape, generator=generator, device="cuda")
            made[name] = (
                (normal * 30).round().clamp(-127, 127).to(torch.int8) if kind == "int8" else normal.to(_dtype(kind))
            )
    return made


def _shape(name: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    sizes, attributes = entry["sizes"], entry["attributes"]
    batch, rows, total = sizes.get("B", sizes.get("R", 1)), sizes.get("N", 1), sizes.get("TOTAL", 1)
    heads, head_dim = attributes.get("heads", 1), attributes.get("head_dim", 1)
    width = attributes.get("width", heads * head_dim)
    vision = entry["family"].startswith(("query_cross", "attention_pool"))
    return {
        "qkv": (batch, rows, 3 * width),
        "statistics": (batch, rows, 2),
        "q_gain": (width,),
        "k_gain": (width,),
        "scales": (8,),
        "q": (batch, sizes.get("Q", 1), width) if vision else (batch, rows, 3 * width),
        "k": (batch, rows, width),
        "v": (batch, rows, width),
        "cos": (max(total, 1) + 8, head_dim // 2),
        "sin": (max(total, 1) + 8, head_dim // 2),
        "positions": (batch, rows),
        "mask": (batch, total),
        "key_cache": (batch, heads, total, head_dim),
        "value_cache": (batch, heads, total, head_dim),
        "partial": (batch, heads, attributes.get("splits", 1), head_dim),
        "stats": (batch, heads, attributes.get("splits", 1), 2),
    }[name]


def _scales(kinds: Mapping[str, str]) -> Any:
    import torch

    step = 1 / 30 if "int8" in kinds.values() else 1.0
    return torch.tensor([step, step, step, 1 / 60 if "int8" in kinds.values() else 1 / 200, 1, 1, 1, 1], device="cuda")


def _statistics(qkv: Any, scales: Any, kind: str) -> Any:
    q, k, _ = _wide(qkv, kind, scales).chunk(3, dim=2)
    import torch

    return torch.stack([(x.square().mean(2) + 1e-6).rsqrt() for x in (q, k)], dim=2).contiguous()


def _wide(x: Any, kind: str, scales: Any) -> Any:
    return x.float() * (float(scales[0]) if kind in ("int8", "fp8") else 1.0)


def _poison(tensor: Mapping[str, Any], entry: Mapping[str, Any]) -> Any:
    import torch

    sizes = {"B": 1, "N": 1, **entry["sizes"], **entry["attributes"]}
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor["shape"]]
    value = 101 if tensor["type"] == "int8" else float("nan")
    return torch.full(shape, value, device="cuda").to(_dtype(tensor["type"]))


def _expected(entry: Mapping[str, Any], x: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs that torch computes in fp32."""
    import torch

    kinds = dict(entry["inputs"])
    family, heads, scales = entry["family"], entry["attributes"].get("heads", 1), _scales(kinds)
    if family.startswith("vit_norms"):
        return {"statistics": _statistics(x["qkv"], scales, kinds["qkv"])}
    if "combine" in family:
        weights = x["stats"][..., 1] * torch.exp2(x["stats"][..., 0])
        mean = (x["partial"] * weights[..., None]).sum(2) / weights.sum(2)[..., None]
        return {"out": mean.flatten(1)[:, None]}
    if family.startswith("vit"):
        q, k, v = _wide(x["qkv"], kinds["qkv"], scales).chunk(3, dim=2)
        if "statistics" in x:
            q, k = (
                part * x["statistics"][..., i : i + 1] * x[gain].float()
                for i, (part, gain) in enumerate(((q, "q_gain"), (k, "k_gain")))
            )
        return {"out": _attend(*(_heads(part, heads) for part in (q, k, v)))}
    if family.startswith("qllama"):
        return _expected_qllama(entry, x)
    return {"out": _attend(*(_heads(x[name].float(), heads) for name in ("q", "k", "v")))}


def _expected_qllama(entry: Mapping[str, Any], x: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    heads, total = entry["attributes"]["heads"], entry["sizes"]["TOTAL"]
    q, k, v = (_heads(part, heads) for part in x["q"].float().chunk(3, dim=2))
    rows = q.shape[2]
    past = total - rows
    places = x.get("positions", torch.arange(past, total, device="cuda").expand(q.shape[0], rows))
    cos, sin = (torch.cat([x[name][places].float()] * 2, dim=-1)[:, None] for name in ("cos", "sin"))
    kind = x["q"].dtype
    q, k = ((t * cos + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * sin).to(kind).float() for t in (q, k))
    if "key_cache" in x:
        k, v = (torch.cat([x[name][:, :, :past].float(), t], 2) for name, t in (("key_cache", k), ("value_cache", v)))
    allowed = torch.ones(rows, total, dtype=torch.bool, device="cuda")
    if entry["family"] in ("qllama_text", "qllama_prompt"):
        allowed = allowed.tril(past)
    return {"out": _attend(q, k, v, allowed), "key_out": k, "value_out": v}


def _heads(x: Any, heads: int) -> Any:
    return x.unflatten(2, (heads, x.shape[2] // heads)).transpose(1, 2)


def _attend(q: Any, k: Any, v: Any, allowed: Any = None) -> Any:
    scores = q.double() @ k.double().transpose(2, 3) * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return (scores.softmax(-1) @ v.double()).transpose(1, 2).flatten(2).float()


def _compared(entry: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, float]:
    import torch

    expected = _expected(entry, inputs)
    found = {name: tensor.float() for name, tensor in outputs.items()}
    kinds = {tensor["name"]: tensor["type"] for tensor in entry["outputs"]}
    if "stats" in found:
        partial = found.pop("partial") if "partial" in found else found.pop("out")
        stats = found.pop("stats")
        top = stats[..., 0].amax(2, keepdim=True)
        weights = stats[..., 1] * torch.exp2(stats[..., 0] - top)
        found["out"] = ((partial * weights[..., None]).sum(2) / weights.sum(2)[..., None]).flatten(1)[:, None]
        kinds["out"] = entry["inputs"][0][1]
    worst = 0.0
    for name, values in found.items():
        kind, want = kinds[name], expected[name]
        coded = {kind for _, kind in entry["inputs"]} & {"int8", "fp8"}
        if kind in ("int8", "fp8"):
            scale = float(inputs["scales"][3])
            largest = scale * (127 if kind == "int8" else 448)
            values, want = values * scale, want.clamp(-largest, largest)
        bound = _RELATIVE[kind] + (_CODES_RELATIVE if coded else 0.0)
        share = float((values - want).abs().max() / want.abs().max()) / bound
        if not share <= 1:
            raise AssertionError(f"{name}: {share:.2f} of its bound {bound}")
        worst = max(worst, share)
    return {"share_of_bound": worst}


def _function(entry: Mapping[str, Any]) -> ctypes.c_void_p:
    cuda = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(cuda.cuModuleLoadData(ctypes.byref(module), entry["ptx"].encode() + b"\0"), "cuModuleLoadData")
    _check(cuda.cuModuleGetFunction(ctypes.byref(function), module, entry["entry"].encode()), "cuModuleGetFunction")
    _check(cuda.cuFuncSetAttribute(function, 8, ctypes.c_int(entry["shared_bytes"])), "cuFuncSetAttribute")
    return function


def _arguments(inputs: list[Any], integers: list[int], outputs: list[Any]) -> list[Any]:
    pointers = [[ctypes.c_uint64(tensor.data_ptr()) for tensor in tensors] for tensors in (inputs, outputs)]
    return [*pointers[0], *(ctypes.c_int32(value) for value in integers), *pointers[1]]


def _launch(function: ctypes.c_void_p, entry: Mapping[str, Any], arguments: list[Any]) -> None:
    import torch

    cuda = ctypes.CDLL("libcuda.so.1")
    listed = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    grid = [ctypes.c_uint(axis) for axis in entry["grid"]]
    block = [ctypes.c_uint(size) for size in (entry["threads"], 1, 1)]
    shared = ctypes.c_uint(entry["shared_bytes"])
    error = cuda.cuLaunchKernel(
        function, *grid, *block, shared, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream), listed, None
    )
    _check(error, "cuLaunchKernel")


def _check(error: int, call: str) -> None:
    if error != 0:
        raise RuntimeError(f"{call}: CUDA error {error}")


def _dtype(kind: str) -> Any:
    import torch

    return {
        "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8,
        "fp8": torch.float8_e4m3fn,
    }[kind]  # fmt: skip


def _line(found: Mapping[str, Any]) -> str:
    parts = [found[name] for name in ("family", "types", "sizes", "tiles")]
    name = " | ".join(map(str, parts))
    if "failed" in found:
        return f"| FAILED {name} | {found['failed'][:300]} |"
    return f"| {name} | {found['share_of_bound']:.2f} | {found['us']:.1f} | {found['predicted_us']:.1f} |"


if __name__ == "__main__":
    main()
