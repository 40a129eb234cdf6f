"""One ONNX graph to one plan, over whatever TensorRT is found: what differs is asked of its capability table.

TensorRT-RTX compiles ahead of time on a CPU for a GPU that is not here; the standard TensorRT for the GPU that is.
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
"""For as long as the process lives: TensorRT keeps the first logger that it is given, by its address."""
_OUR_DOMAIN = b"\x3a\x08" + NAMESPACE.encode()
"""As a node's domain in a file: field 7 of ``NodeProto``, 8 bytes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInfo:
    """What a plan is, as `engine.json` records it."""

    flavour: str
    version: str
    sm: int
    bytes: int
    sha256: str
    seconds: float
    profiles: Sequence[Profile]
    plugins: tuple[tuple[str, str], ...] = ()
    """Name and version of what must be registered before the plan is opened."""


def build_plan(
    onnx_file: Path,
    plan_file: Path,
    *,
    target: Target,
    profiles: Sequence[Profile],
    flavour: str = "tensorrt_rtx",
    workspace_bytes: int | None = None,
) -> PlanInfo:
    """Build the plan of `onnx_file` for `target`; the file appears whole or not at all.

    The network is strongly typed: every precision is in the graph. Weights are read in place from beside the graph.

    Raises:
        EngineError: the library is not installed, or refuses the graph or a profile, in its own words.
        OSError: the plan cannot be written, as on a full disk.
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
    """Return version -> names of our plugins that the graph holds as nodes; functions of the same names count as none.

    A version is as TensorRT's parser understands it. Most graphs hold none, which their bytes tell.
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
    """Make the attention kernels of `wanted` known to the library, compiled for `target`.

    Raises:
        EngineError: the library takes no plugins of that kind, or knows no such plugin.
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
    """Return what launches the kernels while TensorRT times them.

    Raises:
        EngineError: there is no device.
    """
    from internvl_edge.runtime.backends.cuda.kernels import KernelLoader

    device = find_device()
    if not isinstance(device, Device):
        raise EngineError(f"{onnx_file.name}: its attention kernels are timed on the device; {device}; build it there")
    return KernelLoader()


def _network_flags(flavour: Flavour, *, plugins: bool) -> int:
    """Return the flags of a strongly typed network; where there is no such flag, every network is one.

    Plugins are to bring their kernels where they can: by default TensorRT would ask for those that run from Python.
    """
    known = flavour.trt.NetworkDefinitionCreationFlag
    flags = 1 << int(known.STRONGLY_TYPED) if flavour.capabilities.strongly_typed_flag else 0
    ahead_of_time = plugins and flavour.capabilities.plugins_aot
    return flags | (1 << int(known.PREFER_AOT_PYTHON_PLUGINS)) if ahead_of_time else flags


def _allow_decomposition(flavour: Flavour, network: Any) -> None:
    """Let attention without a kernel of its own (fp32, heads of an odd size) be built from plain operations.

    Attention that has a kernel still gets it (seen in plans).
    """
    if not flavour.capabilities.decomposable_attention:
        return
    trt = flavour.trt
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the documented downcast: get_layer gives the base class
            layer.attention.decomposable = True


def _config(flavour: Flavour, builder: Any, target: Target, workspace_bytes: int | None) -> Any:
    trt, config = flavour.trt, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # readers of layers want tensors, formats and tactics
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
    """Build into `writer`, streamed where the library can; return whether there is a plan.

    Raises:
        OSError: the writer failed; the builder itself swallows what its writer raises.
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
    """Return what `profiles` name too much or too little; TensorRT-RTX itself lets unknown names pass."""
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
    """Return the node that a parser error is about, by name and operator; the whole file if it is about none."""
    name, operator = error.node_name(), error.node_operator()
    return f"{name} ({operator})" if name and operator else name or operator or "the file"


def _build_message(onnx_file: Path, flavour: Flavour, target: Target, errors: Sequence[str]) -> str:
    reason = message_line(errors[0]) if errors else "no reason given"  # the last one only says that no GPU is here
    return (
        f"{onnx_file.name}: {flavour.name} {flavour.version} cannot build it for sm_{target.sm} "
        f"({explained(reason)}); choose another --target, or leave it out to ship ONNX alone"
    )


def _log(trt: Any) -> Any:
    """Return a TensorRT logger that keeps errors for our own message and passes the rest on."""

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
    """Return a writer into `file` that digests what passes and keeps the first error; the library may stream to it."""
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
