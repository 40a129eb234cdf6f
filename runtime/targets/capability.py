"""What a TensorRT can do, asked of the module itself: no version is compared anywhere.

Every answer is the presence of the calls that would be made. That a call is there does not say that a build honours
it: TensorRT-RTX has the calls for timing caches and refitting, and offers neither ahead of time. Which opset the parser
reads cannot be asked of any version.
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
"""What a build makes of any TensorRT, without asking; all there since 10.3."""


V3_CALLS = (
    "IPluginCreatorV3One.create_plugin",
    "IPluginRegistry.register_creator",
    "IPluginV3OneBuild.get_valid_tactics",
    "IPluginV3OneRuntime.set_tactic",
)
"""What plugins that our runtime launches are made of."""


def _calls(*paths: str) -> Mapping[str, tuple[str, ...]]:
    return {"calls": paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """One row of the table; a field is true if all calls beside it are there."""

    strongly_typed_flag: bool = field(metadata=_calls("NetworkDefinitionCreationFlag.STRONGLY_TYPED"))
    attention: bool = field(metadata=_calls("INetworkDefinition.add_attention", "LayerType.ATTENTION_INPUT"))
    """`Attention` stays one operation, IAttention."""
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
    """The parser takes weights from memory, beside a graph without them."""
    runtime_config: bool = field(
        metadata=_calls("ICudaEngine.create_runtime_config", "IRuntimeConfig.set_execution_context_allocation_strategy")
    )
    runtime_cache: bool = field(
        metadata=_calls("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache")
    )
    """Kernels that are compiled on the device can be kept."""
    engine_validity: bool = field(metadata=_calls("Runtime.get_engine_validity", "Runtime.engine_header_size"))
    """A plan's header tells whether it will load."""
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
    """`tensorrt.plugin` is there: plugins by decorators, whose kernels run from Python.

    PyPI's `tensorrt` 10.13 leaves that module behind in `tensorrt_bindings`; JetPack's and 11's have it.
    """
    plugins_aot: bool
    """The same with the kernels inside the plan."""
    plugins_v3: bool
    """Where that is not so: plugins as classes in Python, whose kernels our runtime launches."""
    strongly_typed_only: bool
    """The builder has no precision flags left: every network is strongly typed."""
    compute_capabilities: tuple[int, ...]
    """What it builds for ahead of time; empty if only for the device that is there."""
    memory_pools: tuple[str, ...]
    """Names that `IBuilderConfig.set_memory_pool_limit` takes."""
    hardware_compatibility: tuple[str, ...]
    """Levels at which a plan runs on other devices than its own."""


def capabilities(trt: ModuleType) -> Capabilities:
    """Return what `trt` can do; a module like any ``tensorrt``."""
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
    """Return whether `trt` has ``Builder.create_network`` and the like."""
    found: object = trt
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def missing_calls(trt: ModuleType) -> tuple[str, ...]:
    """Return what a build needs of `trt` and does not find; none from 10.3 on."""
    return tuple(path for path in REQUIRED_CALLS if not has_call(trt, path))


def _members(trt: ModuleType, enum: str) -> tuple[str, ...]:
    return tuple(getattr(getattr(trt, enum, None), "__members__", ()))


def _has_submodule(trt: ModuleType, name: str) -> bool:
    """Return whether package `trt` has module `name`; found, not imported, since ``tensorrt.plugin`` warns."""
    path = getattr(trt, "__path__", None)
    return path is not None and PathFinder.find_spec(f"{trt.__name__}.{name}", path) is not None
