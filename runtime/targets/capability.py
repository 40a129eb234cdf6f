"""Find the capabilities of a TensorRT module by the presence of its calls; no version is compared anywhere.

A capability is present if all calls that would be made exist. A build need not support every call that exists:
TensorRT-RTX has the calls for timing caches and refitting, but supports neither ahead of time. No version offers a
call that returns the opset of its parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

REQUIRED_CALLS = (
    "Builder.build_serialized_network",
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.set_memory_pool_limit",
    "ILayer.type",
    "ILogger.Severity.ERROR",
    "ILogger.log",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_layer",
    "INetworkDefinition.num_inputs",
    "INetworkDefinition.num_layers",
    "IOptimizationProfile.set_shape",
    "ITensor.name",
    "ITensor.shape",
    "MemoryPoolType.WORKSPACE",
    "OnnxParser.get_error",
    "OnnxParser.num_errors",
    "OnnxParser.parse_from_file",
    "ParserError.code",
    "ParserError.desc",
    "ParserError.node_name",
    "ParserError.node_operator",
    "ProfilingVerbosity.DETAILED",
)
"""Calls that every build makes; all exist since 10.3."""


V3_CALLS = (
    "IPluginCreatorV3One.create_plugin",
    "IPluginRegistry.register_creator",
    "IPluginV3OneBuild.get_valid_tactics",
    "IPluginV3OneRuntime.set_tactic",
)
"""Calls for plugins whose kernels this project's runtime launches."""


def _calls(*paths: str) -> Mapping[str, tuple[str, ...]]:
    return {"calls": paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Capabilities of one TensorRT. A field with calls in its metadata is true if all of them exist."""

    strongly_typed_flag: bool = field(metadata=_calls("NetworkDefinitionCreationFlag.STRONGLY_TYPED"))
    attention: bool = field(metadata=_calls("INetworkDefinition.add_attention", "LayerType.ATTENTION_INPUT"))
    """Whether `Attention` stays one operation, IAttention."""
    decomposable_attention: bool = field(
        metadata=_calls("IAttention.decomposable", "IAttentionOutputLayer.attention", "LayerType.ATTENTION_OUTPUT")
    )
    rms_norm: bool = field(metadata=_calls("INetworkDefinition.add_normalization_v2"))
    rotary_embedding: bool = field(metadata=_calls("INetworkDefinition.add_rotary_embedding"))
    kv_cache_update: bool = field(metadata=_calls("INetworkDefinition.add_kv_cache_update"))
    stream_build: bool = field(metadata=_calls("Builder.build_serialized_network_to_stream", "IStreamWriter.write"))
    stream_reader: bool = field(metadata=_calls("IStreamReaderV2.read", "IStreamReaderV2.seek"))
    parser_initializers: bool = field(
        metadata=_calls("OnnxParser.load_model_proto", "OnnxParser.load_initializer", "OnnxParser.parse_model_proto")
    )
    """Whether the parser takes weights from memory for a graph without them."""
    runtime_config: bool = field(
        metadata=_calls("ICudaEngine.create_runtime_config", "IRuntimeConfig.set_execution_context_allocation_strategy")
    )
    runtime_cache: bool = field(
        metadata=_calls("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache")
    )
    """Whether kernels that are compiled on the device can be stored."""
    engine_validity: bool = field(metadata=_calls("Runtime.get_engine_validity", "Runtime.engine_header_size"))
    """Whether the header of a plan can be checked before the plan is loaded."""
    weight_streaming: bool = field(
        metadata=_calls("BuilderFlag.WEIGHT_STREAMING", "ICudaEngine.weight_streaming_budget_v2")
    )
    refit: bool = field(metadata=_calls("BuilderFlag.REFIT", "Refitter.refit_cuda_engine"))
    strip_plan: bool = field(metadata=_calls("BuilderFlag.STRIP_PLAN"))
    version_compatible: bool = field(metadata=_calls("BuilderFlag.VERSION_COMPATIBLE"))
    timing_cache: bool = field(metadata=_calls("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache"))
    tiling_optimization: bool = field(
        metadata=_calls("IBuilderConfig.tiling_optimization_level", "TilingOptimizationLevel.FULL")
    )
    calibrators: bool = field(metadata=_calls("IInt8Calibrator", "IBuilderConfig.int8_calibrator"))
    bf16: bool = field(metadata=_calls("DataType.BF16"))
    fp8: bool = field(metadata=_calls("DataType.FP8"))
    int4: bool = field(metadata=_calls("DataType.INT4"))
    fp4: bool = field(metadata=_calls("DataType.FP4"))
    plugins_qdp: bool
    """Whether `tensorrt.plugin` exists, with plugins by decorators whose kernels are launched from Python.

    PyPI's `tensorrt` 10.13 has that module only in `tensorrt_bindings`; JetPack's and version 11 have it.
    """
    plugins_aot: bool
    """Whether such plugins can have their kernels inside the plan (ahead of time)."""
    plugins_v3: bool
    """Whether, without `plugins_aot`, plugins can be Python classes whose kernels this project's runtime launches."""
    strongly_typed_only: bool
    """Whether every network is strongly typed, since the builder has no precision flags."""
    compute_capabilities: tuple[int, ...]
    """SMs that it builds for ahead of time; empty if it builds only for the device of this machine."""
    memory_pools: tuple[str, ...]
    """Names of the pools for `IBuilderConfig.set_memory_pool_limit`."""
    hardware_compatibility: tuple[str, ...]
    """Names of the levels at which a plan runs on other devices than its own."""


def capabilities(trt: ModuleType) -> Capabilities:
    """Return the capabilities of `trt`, a module such as ``tensorrt``."""
    plain: dict[str, Any] = {
        answer.name: all(has_call(trt, path) for path in answer.metadata["calls"])
        for answer in fields(Capabilities)
        if "calls" in answer.metadata
    }
    plugins = has_call(trt, "IPluginV3QuickBuild") and _has_submodule(trt, "plugin")
    plugins_aot = plugins and has_call(trt, "NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS")
    ahead = sorted(int(name[2:]) for name in _members(trt, "ComputeCapability") if name.startswith("SM"))
    return Capabilities(
        **plain,
        plugins_qdp=plugins,
        plugins_aot=plugins_aot,
        plugins_v3=not plugins_aot and not ahead and all(has_call(trt, path) for path in V3_CALLS),
        strongly_typed_only=not has_call(trt, "BuilderFlag.FP16"),
        compute_capabilities=tuple(ahead),
        memory_pools=_members(trt, "MemoryPoolType"),
        hardware_compatibility=tuple(name for name in _members(trt, "HardwareCompatibilityLevel") if name != "NONE"),
    )


def has_call(trt: ModuleType, path: str) -> bool:
    """Return whether `trt` has the attribute `path`, as ``Builder.create_network``."""
    found: object = trt
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def missing_calls(trt: ModuleType) -> tuple[str, ...]:
    """Return the calls that a build needs and `trt` lacks; there are none from 10.3 on."""
    return tuple(path for path in REQUIRED_CALLS if not has_call(trt, path))


def _members(trt: ModuleType, enum: str) -> tuple[str, ...]:
    return tuple(getattr(getattr(trt, enum, None), "__members__", ()))


def _has_submodule(trt: ModuleType, name: str) -> bool:
    """Return whether package `trt` has module `name`, without importing it, since ``tensorrt.plugin`` warns."""
    path = getattr(trt, "__path__", None)
    return path is not None and PathFinder.find_spec(f"{trt.__name__}.{name}", path) is not None
