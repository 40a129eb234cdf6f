"""The trtexec commands of a kit."""

import shlex

from internvl_edge.export.engine.trtexec import trtexec_line

VISION = {"pixel_values": ((1, 3, 70, 70), (2, 3, 70, 70), (8, 3, 70, 70))}
TEXT = {"input_ids": ((1, 1), (1, 16), (8, 80))}


def test_tensorrt_10_is_told_to_type_by_the_graph_and_11_does_so_by_itself() -> None:
    ten = trtexec_line("onnx/fp16/vision.onnx", "vision.plan", [VISION], major=10)
    eleven = trtexec_line("onnx/fp16/vision.onnx", "vision.plan", [VISION], major=11)
    assert ten.replace(" --stronglyTyped", "") == eleven
    assert shlex.split(eleven) == [
        "trtexec",
        "--onnx=onnx/fp16/vision.onnx",
        "--saveEngine=vision.plan",
        "--skipInference",
        "--profilingVerbosity=detailed",
        "--minShapes=pixel_values:1x3x70x70",
        "--optShapes=pixel_values:2x3x70x70",
        "--maxShapes=pixel_values:8x3x70x70",
    ]


def test_several_profiles_are_numbered_in_front_of_their_shapes() -> None:
    words = shlex.split(trtexec_line("a.onnx", "a.plan", [TEXT, TEXT], major=10, workspace_bytes=1 << 30))
    assert "--memPoolSize=workspace:1024M" in words
    first, second = words.index("--profile=0"), words.index("--profile=1")
    assert [word.split("=")[0] for word in words[first + 1 : second]] == ["--minShapes", "--optShapes", "--maxShapes"]
    assert len(words[second + 1 :]) == 3


def test_a_graph_without_dynamic_axes_has_no_shapes() -> None:
    assert "Shapes" not in trtexec_line("a.onnx", "a.plan", [{}], major=11)
