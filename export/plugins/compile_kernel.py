"""Compile a kernel without a GPU: Triton writes the PTX, and ptxas reports its registers and spills.

The PTX version is the one of the device's oldest driver. Triton's default is the newest version, which JetPack 6
(CUDA 12.6, PTX 8.5) refuses.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from internvl_edge.export.plugins.launches import Launch
from internvl_edge.runtime.backends.tensorrt.plans.grid_sizes import formula_json
from internvl_edge.runtime.cache_folder import cache_folder
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.numbers.tensor_types import FLOAT8E4M3FN
from internvl_edge.runtime.replace_file import replace_file
from internvl_edge.runtime.targets.sms import SMS, sm_row

logger = logging.getLogger(__name__)

_PTX_VERSIONS = {row.sm: row.ptx_version for row in SMS}

_SCRATCH_PARAMETERS = 2
"""Number of pointers to scratch memory (global and profiler) that Triton appends to every kernel; ours use none."""

_TENSOR_CORES = {"tcgen05": r"tcgen05\.mma", "wgmma": r"wgmma\.mma_async", "mma": r"\bmma\.sync"}

_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernel:
    """PTX for a plan, and the resources that ptxas reports for it."""

    plugin: str
    sm: int
    """SM of the target device."""
    compiled_sm: int
    """SM that it was compiled for; lower than `sm` if the compiler does not know `sm`."""
    entry: str
    ptx: str
    parameters: tuple[str, ...]
    """PTX types of the parameters in order: ``u64`` for a pointer, ``u32`` for an integer."""
    warps: int
    """Warps of a block, including those that Triton adds."""
    shared_bytes: int
    registers: int
    spill_bytes: int
    """Bytes of spill stores and loads."""
    stack_bytes: int
    tensor_memory_columns: int
    """Columns of tensor memory, of 512 that a multiprocessor of datacenter Blackwell has."""
    tensor_cores: str
    """Kind of tensor core instructions: ``mma``, ``wgmma``, ``tcgen05``, or empty for none."""
    triton: str
    grid: tuple[Any, Any, Any]
    """Blocks along x, y and z: formulas of the launch's sizes, as `grid_sizes.formula_json` writes them."""

    @property
    def threads(self) -> int:
        """Number of threads of a block."""
        return 32 * self.warps


def compile_kernel(launch: Launch, sm: int, cache: Path | None = None) -> CompiledKernel:
    """Return `launch` compiled for `sm`.

    Results are cached in `cache`, by default in the program's `cache_folder`. For an SM that the compiler does not
    know, the result is PTX of the next lower one, with a warning; the driver compiles it for the device.

    Raises:
        EngineError: Triton is missing, runs its interpreter in this process, or refuses the kernel.
    """
    compiled_sm = sm_row(sm).sm
    if compiled_sm != sm:
        logger.warning("sm_%d: Triton does not know it; PTX of sm_%d is used", sm, compiled_sm)
    folder = cache or cache_folder() / "kernels"
    path = folder / f"{launch.plugin}-sm{compiled_sm}{'' if compiled_sm == sm else 'p'}-{_key(launch)}.json"
    if (found := _read(path)) is not None:
        return replace(found, sm=sm)
    compiled = _compile(launch, sm, compiled_sm)
    _write(compiled, path)
    return compiled


def save_kernel(compiled: CompiledKernel, launch: Launch, folder: Path) -> Path:
    """Write a kernel to `folder` for a device without Triton, where `load_kernel` finds it; return the file."""
    path = _stored(launch, compiled.sm, folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(compiled)), encoding="utf-8")
    return path


def load_kernel(launch: Launch, sm: int, folder: Path) -> CompiledKernel:
    """Return a kernel that `save_kernel` wrote.

    Raises:
        EngineError: the kernel is missing or cannot be read.
    """
    path = _stored(launch, sm, folder)
    if (found := _read(path)) is None:
        raise EngineError(f"{path}: no kernel of {launch.plugin} for sm_{sm}; write the kit again with this version")
    return found


def without_scratch(ptx: str) -> str:
    """Return `ptx` without the two scratch pointers that Triton appends, as TensorRT does not pass them.

    Raises:
        EngineError: the kernel uses them, or the parameters have another form.
    """
    head = re.search(r"\.visible \.entry (\w+)\s*\(([^)]*)\)", ptx)
    if head is None:
        raise EngineError("the PTX has no entry; this Triton writes it in a form that is not known here")
    parameters = [line.strip() for line in head[2].split(",") if line.strip()]
    kept, dropped = parameters[:-_SCRATCH_PARAMETERS], parameters[-_SCRATCH_PARAMETERS:]
    body = ptx[: head.start()] + ptx[head.end() :]
    for parameter in dropped:
        name = parameter.split()[-1]
        if ".u64" not in parameter or re.search(rf"\b{re.escape(name)}\b", body):
            raise EngineError(f"{head[1]}: uses scratch memory ({name}), which TensorRT does not give to plugins")
    text = f".visible .entry {head[1]}(\n\t" + ",\n\t".join(kept) + "\n)"
    return ptx[: head.start()] + text + ptx[head.end() :]


def parameter_types(ptx: str) -> tuple[str, ...]:
    """Return the PTX types of the kernel's parameters, in order."""
    head = re.search(r"\.visible \.entry \w+\s*\(([^)]*)\)", ptx)
    return tuple(re.findall(r"\.param\s+(?:\.align \d+ )?\.(\w+)", head[1])) if head else ()


def _compile(launch: Launch, sm: int, compiled_sm: int) -> CompiledKernel:
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise EngineError("kernels need Triton to compile: pip install 'internvl-edge[plugins]'") from error
    if triton.knobs.runtime.interpret:
        raise EngineError("Triton interprets in this process; unset TRITON_INTERPRET to compile kernels")
    signature, grid = launch.signature(), launch.symbolic_grid()
    pointers = {tensor.name for tensor in launch.tensors}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(signature) if name in pointers}
    source = ASTSource(launch.function(), signature, constexprs=launch.constexprs(), attrs=aligned)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "ptx_version": _ptx_version(launch, compiled_sm)}
    try:
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.disable_line_info = True  # plans must not contain paths of sources
            done = triton.compile(source, target=GPUTarget("cuda", compiled_sm, 32), options=options)
    except Exception as error:  # Triton raises any exception of its passes
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"{launch.plugin}: Triton refuses it for sm_{compiled_sm}: {said[-1]}") from error
    metadata = done.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise EngineError(f"{launch.plugin}: wants scratch memory, which TensorRT does not give to plugins")
    ptx = without_scratch(done.asm["ptx"])
    if compiled_sm != sm:
        ptx = _portable(ptx)
    found = parameter_types(ptx)
    expected = ("u64",) * len(launch.inputs) + ("u32",) * len(launch.integers) + ("u64",) * len(launch.outputs)
    if found != expected:
        raise EngineError(f"{launch.plugin}: its PTX takes {found}, plugins hand over {expected}")
    warps = re.search(r"\.(?:req|max)ntid (\d+)", ptx)
    return CompiledKernel(
        plugin=launch.plugin,
        sm=sm,
        compiled_sm=compiled_sm,
        entry=str(metadata.name),
        ptx=ptx,
        parameters=found,
        warps=int(warps[1]) // 32 if warps else int(metadata.num_warps),
        shared_bytes=int(metadata.shared),
        tensor_memory_columns=int(getattr(metadata, "tmem_size", 0) or 0),
        tensor_cores=next((name for name, pattern in _TENSOR_CORES.items() if re.search(pattern, ptx)), ""),
        triton=str(triton.__version__),
        grid=(formula_json(grid[0]), formula_json(grid[1]), formula_json(grid[2])),
        **_ptxas(ptx, compiled_sm, launch.plugin),
    )


def _ptx_version(launch: Launch, sm: int) -> int:
    fp8 = any(tensor.type == FLOAT8E4M3FN.short for tensor in launch.tensors)
    row = sm_row(sm)
    return max(row.ptx_version, row.fp8_ptx_version) if fp8 else row.ptx_version


def _portable(ptx: str) -> str:
    """Return `ptx` for its target and later ones: ``sm_121a`` runs on this SM only, ``sm_121`` on later ones too."""
    return re.sub(r"^(\.target sm_\d+)[af]\b", r"\1", ptx, flags=re.MULTILINE)


def _ptxas(ptx: str, sm: int, name: str) -> dict[str, int]:
    """Return registers, spills and stack of the kernel in `ptx`, as ptxas reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        command = [
            get_ptxas(sm).path,
            "-v",
            f"-arch={target[1] if target else f'sm_{sm}'}",
            str(path),
            "-o",
            os.devnull,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines() or ["no reason given"]
        raise EngineError(f"{name}: ptxas refuses the PTX for sm_{sm}: {said[0]}")
    return resources(done.stderr + done.stdout)


def resources(output: str) -> dict[str, int]:
    """Return registers, spills and stack from the output of ``ptxas -v``."""

    def number(pattern: str) -> int:
        return sum(int(value) for value in re.findall(pattern, output))

    return {
        "registers": number(r"Used (\d+) registers"),
        "spill_bytes": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "stack_bytes": number(r"(\d+) bytes stack frame"),
    }


def _key(launch: Launch) -> str:
    """Return a digest of the launch, the sources of the kernel and the functions it calls, and the compiler."""
    import triton

    source = getattr(launch.function(), "cache_key", "")
    text = f"{launch.digest()} {source} {triton.__version__} {_PTX_VERSIONS} {_SCRATCH_PARAMETERS}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _stored(launch: Launch, sm: int, folder: Path) -> Path:
    return folder / f"{launch.plugin}-sm{sm}-{launch.digest()}.json"


def _read(path: Path) -> CompiledKernel | None:
    try:
        stored: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return CompiledKernel(**{**stored, "parameters": tuple(stored["parameters"]), "grid": tuple(stored["grid"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(compiled: CompiledKernel, path: Path) -> None:
    try:
        replace_file(path, json.dumps(asdict(compiled)).encode())
    except OSError as error:
        logger.info("%s: not kept (%s)", path, error)
