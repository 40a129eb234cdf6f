"""What TensorRT really says, by version, and what we make of it."""

from pathlib import Path

import onnx
import pytest

from internvl_edge.export.engine.tensorrt_messages import Explanation, explain, explained, is_out_of_memory
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.data_sheet import Target

VERSION = "another version of TensorRT built the plan"
NO_PLAN = "the file is no plan of this TensorRT"
MEMORY = "memory of the device ran out"
NO_KERNEL = "this TensorRT has no kernel"
NO_PLUGIN = "knows only as a plugin"
WORKSPACE = "the workspace limit"

SAID = [
    (
        "[stdArchiveReader.cpp::StdArchiveReaderInitCommon::46] Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 236, "
        "Serialized Engine Version: 237)",
        VERSION,
    ),
    ("coreReadArchive.cpp (38) - Serialization Error in verifyHeader: 0 (Version tag does not match)", VERSION),
    (
        "6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.0.0 "
        "got 8.0.1, please rebuild.",
        "TensorRT 8.0.1 built the plan, TensorRT 8.0.0 reads it",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
        "incompatible device, expecting compute 8.9 got compute 8.6, please rebuild.)",
        "the plan is for compute capability 8.6, the device has 8.9",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not "
        "support this compute capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapSupported at "
        "/_src/runtime/dispatch/runtime.cpp:84)",
        "the device has compute capability 9.0, which TensorRT-RTX does not run on",
    ),
    (
        "The engine cannot run on this GPU, which has compute capability 8.6. Supported compute capabilities: 8.9. "
        "Rebuild the engine for compute capability 8.6 with IBuilderConfig::setComputeCapability, or leave the compute "
        "capability unset so that the engine runs on every supported GPU.",
        "the plan is for compute capability 8.9, the device has 8.6",
    ),
    (
        "[runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization assertion plan->header.magicTag == "
        "rt::kPLAN_MAGIC_TAG failed.)",
        NO_PLAN,
    ),
    ("coreReadArchive.cpp (31) - Serialization Error in verifyHeader: 0 (Magic tag does not match)", NO_PLAN),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == "
        "kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with incompatible serialization version "
        "(2021161080 != 1953657974). Check that the engine was not created using safety runtime, same OS was used and "
        "version compatibility parameters were set accordingly and that it is a TRT engine file.)",
        NO_PLAN,
    ),
    (
        "The engine header does not conform to the expected format for TensorRT-RTX. Ensure that the engine was "
        "created with the same version of TensorRT-RTX as the current runtime.",
        NO_PLAN,
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion plan.header.size == "
        "blobSize failed. In parsePlan at /_src/runtime/dispatch/runtime.cpp:780)",
        "the plan is cut short",
    ),
    (
        "[runtime.cpp::readHeader::765] Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.)",
        "the plan is cut short",
    ),
    (
        "IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error (Networks with FP8 Q/DQ layers require "
        "hardware with FP8 support.)",
        "the device has no units for FP8",
    ),
    (
        "IBuilder::buildSerializedNetworkToStream: Error Code 1: Myelin ([pass.cpp:1500: run_passes] Cannot compile "
        "for target(s) sm75, because the model contains HW-specific datatypes: b16)",
        "the device has no units for b16",
    ),
    ('INVALID_NODE, creator && "Plugin not found, are the plugin name, version, and namespace correct?"', NO_PLUGIN),
    ("3: getPluginCreator could not find plugin: SequenceConstruct version: 1", NO_PLUGIN),
    (
        "No importer registered for op: RMSNormalization. Attempting to import as plugin.",
        "this TensorRT's parser is too old for",
    ),
    (
        "CUDA initialization failure with error: 35. Please check your CUDA installation:  "
        "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html",
        "the NVIDIA driver is older",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
        "/_src/common/dispatch/cudaResources.cpp:25 (cudaError 35: CUDA driver version is insufficient for CUDA "
        "runtime version))",
        "the NVIDIA driver is older",
    ),
    ("CUDA error code=35(cudaErrorInsufficientDriver)", "the NVIDIA driver is older"),
    (
        "Cuda initialization failure with error 100. Please check cuda installation: "
        "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html.",
        "CUDA finds no usable GPU here (cudaError 100)",
    ),
    ("[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)", MEMORY),
    (
        "[virtualMemoryBuffer.cpp::resizePhysical::140] Error code 2: out of Memory (Requested size was 22942842880 "
        "bytes.)",
        MEMORY,
    ),
    (
        "Requested amount of GPU memory (4294967296 bytes) could not be allocated. There may not be enough free memory "
        "for allocation to succeed.",
        MEMORY,
    ),
    ("Cuda Error in allocate: 2 (out of memory)", MEMORY),
    (
        "Skipping tactic 3 due to insuficient memory on requested size of 4294967296 detected for tactic 4. Try "
        "decreasing the workspace size with IBuilderConfig::setMaxWorkspaceSize().",
        MEMORY,
    ),
    (
        "Tactic Device request: 9385MB Available: 7649MB. Device memory is insufficient to use tactic.",
        MEMORY,
    ),
    ("std::bad_alloc", "memory of this machine ran out"),
    (
        "Some tactics do not have sufficient workspace memory to run. Increasing workspace size may increase "
        "performance, please check verbose output.",
        WORKSPACE,
    ),
    (
        "Internal error: could not find any implementation for node 9_full_with_bias, try increasing the workspace "
        "size with IBuilder::setMaxWorkspaceSize()",
        WORKSPACE,
    ),
    (
        "10: [optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any implementation for "
        "node {ForeignNode[(Unnamed Layer* 1247) [Shuffle].../layers.7/Transpose_2 + /layers.7/Reshape_4]}.)",
        NO_KERNEL,
    ),
    (
        "Skipping tactic 0x0000000000000000 due to Myelin error: Autotuner: no tactics to implement operation",
        NO_KERNEL,
    ),
]


@pytest.mark.parametrize(("said", "cause"), SAID, ids=range(len(SAID)))
def test_a_known_message_has_a_cause_and_a_next_command(said: str, cause: str) -> None:
    meaning = explain(said)
    assert meaning is not None
    assert cause in meaning.cause
    assert meaning.next_command.startswith("internvl-edge ")
    assert "{" not in meaning.cause
    line = explained(said)
    assert line.startswith(" ".join(said.split()))
    assert line.endswith(f"[{meaning.cause}; next: {meaning.next_command}]")


def test_only_memory_counts_as_memory() -> None:
    for said, cause in SAID:
        assert is_out_of_memory(said) == (cause in (MEMORY, "memory of this machine ran out")), said


def test_memory_that_hides_behind_a_missing_kernel_comes_first() -> None:
    said = "Error Code 2: OutOfMemory; Error Code 10: Could not find any implementation for node x."
    assert explain(said) == explain("out of memory")
    assert is_out_of_memory(said)


def test_an_unknown_message_stays_as_it_is_on_one_line() -> None:
    said = "Error Code 4: Internal Error\n  (element type (half) differs from input 1's)"
    assert explain(said) is None
    assert explained(said) == "Error Code 4: Internal Error (element type (half) differs from input 1's)"
    assert not is_out_of_memory(said)


def test_an_explanation_names_the_attention_that_needs_no_plugin() -> None:
    assert explain("getPluginCreator could not find plugin: Attention version: 1") == Explanation(
        cause="the graph holds an operation that this TensorRT knows only as a plugin, and no such plugin is loaded",
        next_command="internvl-edge build BUNDLE --target TARGET --attention pattern",
    )


def test_what_tensorrt_rtx_says_today_is_known(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    from internvl_edge.export.engine.builder import build_plan

    text = (
        '<ir_version: 11, opset_import: ["": 23]>\ng (bfloat16[b, 4, 4] x) => (bfloat16[b, 4, 4] y) {y = MatMul(x, x)}'
    )
    graph = tmp_path / "g.onnx"
    graph.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    profile = {"x": ((1, 4, 4), (1, 4, 4), (2, 4, 4))}
    with pytest.raises(EngineError, match=r"HW-specific datatypes: b16\) \[the device has no units for b16; next: "):
        build_plan(graph, tmp_path / "g.plan", target=Target(name="t4", sm=75), profiles=[profile])


def test_a_damaged_plan_is_known_to_the_real_runtime(tmp_path: Path) -> None:
    """TensorRT-RTX reads headers without a GPU: too short, no plan at all."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: object, message: str) -> None:
            self.said.append(message)

    log = Log()
    runtime = trt.Runtime(log)
    for blob, cause in ((b"x" * 10_000, NO_PLAN), (b"x" * 10, "the plan is cut short")):
        log.said.clear()
        assert runtime.deserialize_cuda_engine(blob) is None
        meanings = [explain(message) for message in log.said]
        assert any(meaning is not None and meaning.cause.startswith(cause) for meaning in meanings)
