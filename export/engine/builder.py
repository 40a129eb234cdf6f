"""Build one plan from one ONNX file, with any TensorRT; its capability table decides what differs.

TensorRT-RTX builds on a CPU, for a GPU that need not be there. The standard TensorRT builds for the GPU of the machine.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from internvl_edge.export.engine.tensorrt_messages import explained
from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import NAMESPACE, KernelDriver
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import VERSION as PYTHON_VERSION
from internvl_edge.runtime.backends.tensorrt_module import message_line
from internvl_edge.runtime.bundle.engines import Profile
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.flavour import Flavour, load_flavour

logger = logging.getLogger(__name__)

_LOGS: list[Any] = []
"""Loggers, kept until the process ends: TensorRT keeps the address of the first logger that it gets."""
_OUR_DOMAIN = b"\x3a\x08" + NAMESPACE.encode()
"""Bytes of our domain in a node of an ONNX file: field 7 of ``NodeProto``, with a length of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInfo:
    """Description of a plan for `engine.json`."""

    flavour: str
    version: str
    sm: int
    bytes: int
    sha256: str
    seconds: float
    profiles: Sequence[Profile]
    plugins: tuple[tuple[str, str], ...] = ()
    """Name and version of each plugin that must be registered before the plan is opened."""


def build_plan(
    onnx_file: Path,
    plan_file: Path,
    *,
    target: Target,
    profiles: Sequence[Profile],
    flavour: str = "tensorrt_rtx",
    workspace_bytes: int | None = None,
) -> PlanInfo:
    """Build the plan of `onnx_file` for `target`, and write it to `plan_file`, whole or not at all.

    The network is strongly typed: the graph states every precision. Weights are read from the files beside the graph.

    Raises:
        EngineError: the library is not installed, or refuses the graph or a profile.
        OSError: the plan cannot be written, for example because the disk is full.
    """
    found = load_flavour(flavour)
    trt = found.trt
    started = time.monotonic()
    log = _log(trt)
    wanted = _plugins_in(onnx_file)
    if wanted:
        _register(found, wanted, onnx_file, target)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(found, plugins=bool(wanted)))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        raise EngineError(_parser_message(onnx_file, found, parser))
    if wrong := _profile_findings(network, profiles):
        raise EngineError(f"{onnx_file.name}: {'; '.join(wrong)}; a profile shapes all dynamic inputs and nothing else")
    _allow_decomposition(found, network)
    config = _config(found, builder, target, workspace_bytes)
    for shapes in profiles:
        _add_profile(builder, config, onnx_file, shapes)
    log.errors.clear()
    temporary = plan_file.with_suffix(".partial")
    try:
        with temporary.open("wb") as file:
            writer = _writer(found, file)
            if not _build(found, builder, network, config, writer) or file.tell() == 0:
                raise EngineError(_build_message(onnx_file, found, target, log.errors))
        temporary.replace(plan_file)
    finally:
        temporary.unlink(missing_ok=True)
    return PlanInfo(
        flavour=found.name,
        version=found.version,
        sm=target.sm,
        bytes=plan_file.stat().st_size,
        sha256=writer.digest.hexdigest(),
        seconds=time.monotonic() - started,
        profiles=[dict(profile) for profile in profiles],
        plugins=tuple((name, PYTHON_VERSION) for name in wanted.get(PYTHON_VERSION, ())),
    )


def _plugins_in(onnx_file: Path) -> dict[str, list[str]]:
    """Return version -> names of our plugins among the graph's nodes, except those that have a function in the file.

    The version is the one that TensorRT's parser reads. Files without our domain are not parsed.
    """
    data = onnx_file.read_bytes()
    if _OUR_DOMAIN not in data:
        return {}
    model = OnnxModel(data, onnx_file.parent)
    written_out = model.functions()
    nodes = [node for node in model.nodes if node.domain == NAMESPACE and (NAMESPACE, node.op_type) not in written_out]
    found: dict[str, list[str]] = {}
    for name, version in sorted({(node.op_type, node.text("plugin_version", "1")) for node in nodes}):
        found.setdefault(version, []).append(name)
    return found


def _register(flavour: Flavour, wanted: Mapping[str, Sequence[str]], onnx_file: Path, target: Target) -> None:
    """Register the plugins of `wanted` with the library, with kernels compiled for `target`.

    Raises:
        EngineError: the library takes no plugins of that version, or a plugin does not exist.
    """
    from internvl_edge.export.plugins.families import plugins
    from internvl_edge.export.plugins.tensorrt_plugins import register_plugins, require_plugins
    from internvl_edge.export.plugins.v3_plugin import register_v3

    if flavour.capabilities.plugins_aot:
        register_plugins(flavour.trt, plugins(), sm=target.sm)
    elif flavour.capabilities.plugins_v3:
        register_v3(flavour.trt, plugins(), target.sm, _kernel_driver(onnx_file))
    else:
        names = ", ".join(f"{NAMESPACE}::{name}" for listed in wanted.values() for name in listed)
        raise EngineError(
            f"{onnx_file.name}: holds {names}, and {flavour.name} {flavour.version} takes no ahead-of-time plugins; "
            "write the graph with --attention pattern"
        )
    for version, listed in wanted.items():
        require_plugins(flavour.trt, listed, version)


def _kernel_driver(onnx_file: Path) -> KernelDriver:
    """Return the driver that launches the kernels while TensorRT times them.

    Raises:
        EngineError: there is no GPU.
    """
    from internvl_edge.runtime.backends.cuda.kernels import KernelLoader

    device = find_device()
    if not isinstance(device, Device):
        raise EngineError(f"{onnx_file.name}: its attention kernels are timed on the device; {device}; build it there")
    return KernelLoader()


def _network_flags(flavour: Flavour, *, plugins: bool) -> int:
    """Return the flags of a strongly typed network; versions without the flag have no other networks.

    With `plugins`, ahead-of-time plugins are preferred; by default TensorRT would take those that run from Python.
    """
    known = flavour.trt.NetworkDefinitionCreationFlag
    flags = 1 << int(known.STRONGLY_TYPED) if flavour.capabilities.strongly_typed_flag else 0
    ahead_of_time = plugins and flavour.capabilities.plugins_aot
    return flags | (1 << int(known.PREFER_AOT_PYTHON_PLUGINS)) if ahead_of_time else flags


def _allow_decomposition(flavour: Flavour, network: Any) -> None:
    """Allow attention without a fused kernel (fp32, unusual head sizes) to be built from plain operations.

    Attention that has a fused kernel still gets it, as plans show.
    """
    if not flavour.capabilities.decomposable_attention:
        return
    trt = flavour.trt
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the documented downcast: get_layer returns the base class
            layer.attention.decomposable = True


def _config(flavour: Flavour, builder: Any, target: Target, workspace_bytes: int | None) -> Any:
    trt, config = flavour.trt, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # plans then list tensors, formats and tactics
    if known := flavour.capabilities.compute_capabilities:
        if target.sm not in known:
            built = ", ".join(f"sm_{sm}" for sm in known)
            raise EngineError(f"{target.name}: {flavour.name} builds for {built}; build on the device, from a kit")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target.sm}"), 0)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    return config


def _build(flavour: Flavour, builder: Any, network: Any, config: Any, writer: Any) -> bool:
    """Build into `writer`, as a stream if the library can, and return whether there is a plan.

    Raises:
        OSError: the writer failed; the builder does not pass on errors of its writer.
    """
    if flavour.capabilities.stream_build:
        built = bool(builder.build_serialized_network_to_stream(network, config, writer))
    else:
        plan = builder.build_serialized_network(network, config)
        built = plan is not None and writer.write(memoryview(plan)) >= 0
    if writer.error is not None:
        raise writer.error
    return built


def _profile_findings(network: Any, profiles: Sequence[Profile]) -> list[str]:
    """Return findings about inputs that `profiles` lack or do not know; TensorRT-RTX ignores unknown names."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    known = {tensor.name for tensor in inputs}
    dynamic = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
    findings = [] if profiles or not dynamic else [f"no profile for dynamic inputs {', '.join(sorted(dynamic))}"]
    for number, shapes in enumerate(profiles):
        if unknown := sorted(shapes.keys() - known):
            findings.append(f"profile {number} shapes {', '.join(unknown)}, which is no input")
        if lacking := sorted(dynamic - shapes.keys()):
            findings.append(f"profile {number} lacks {', '.join(lacking)}")
    return findings


def _add_profile(builder: Any, config: Any, onnx_file: Path, shapes: Profile) -> None:
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in shapes.items():
        profile.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            f"{onnx_file.name}: TensorRT refuses profile {dict(shapes)}; min <= opt <= max must hold on every axis"
        )


def _parser_message(onnx_file: Path, flavour: Flavour, parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    listed = "; ".join(f"{_place(error)}: {error.code().name}, {message_line(error.desc())}" for error in errors[:4])
    return (
        f"{onnx_file.name}: {flavour.name} {flavour.version} cannot parse {listed or 'the file'}; "
        "try another --attention, or leave out --target to ship ONNX alone"
    )


def _place(error: Any) -> str:
    """Return the node of a parser error by name and operator, or "the file" if it names none."""
    name, operator = error.node_name(), error.node_operator()
    return f"{name} ({operator})" if name and operator else name or operator or "the file"


def _build_message(onnx_file: Path, flavour: Flavour, target: Target, errors: Sequence[str]) -> str:
    reason = message_line(errors[0]) if errors else "no reason given"  # the last one only says that there is no GPU
    return (
        f"{onnx_file.name}: {flavour.name} {flavour.version} cannot build it for sm_{target.sm} "
        f"({explained(reason)}); choose another --target, or leave it out to ship ONNX alone"
    )


def _log(trt: Any) -> Any:
    """Return a TensorRT logger that keeps errors for our message and logs everything at debug level."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            logger.debug("%s", message)

    _LOGS.append(Log())
    return _LOGS[-1]


def _writer(flavour: Flavour, file: IO[bytes]) -> Any:
    """Return a stream writer into `file` that computes a digest and keeps the first error."""
    base: Any = flavour.trt.IStreamWriter if flavour.capabilities.stream_build else object

    class Writer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.digest = hashlib.sha256()
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            self.digest.update(data)
            try:
                return file.write(data)
            except OSError as error:
                self.error = self.error or error
                return 0

    return Writer()
