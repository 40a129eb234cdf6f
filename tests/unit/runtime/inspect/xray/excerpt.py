"""A recorded excerpt as a plan file: half a block of the demo's vision tower, see `make_excerpt.py`."""

import struct
from pathlib import Path

from internvl_edge.runtime.targets.data_sheet import DataSheet, Target

HERE = Path(__file__).parent
ENGINE = (HERE / "excerpt.txt").read_bytes()
FUSION = (HERE / "excerpt_fusion.txt").read_bytes()
LAYERS = b"".join(b"[ONNX Layer: vision_model.encoder.layers.0.%s]\x1e" % name for name in (b"norm1", b"attn.qkv"))
BLOCK = "vision_model.encoder.layers.0"

ROUND = Target(
    name="round",
    sm=89,
    sheet=DataSheet(
        memory_gib=8.0,
        bandwidth_gb_s=1000.0,
        multiprocessors=10,
        clock_ghz=1.0,
        tflops={"fp16": 1.0},
        source="round numbers",
    ),
)
"""One byte takes 1e-9 ms x 1000, one fp16 FLOP 1e-9 ms."""


def plan_bytes(*programs: bytes, layers: bytes = LAYERS) -> bytes:
    """Return a plan around `programs`, each behind its mark, version and length, with binary data between them."""
    binary = bytes(range(256)) * 4
    written = (b"NLYM\xa1\xda\x1e\x00" + struct.pack("<Q", len(text)) + text + binary for text in programs)
    return b"vtrt" + bytes(60) + layers + b"".join(written)


def write_plan(path: Path, *programs: bytes) -> Path:
    """Write a plan around `programs`; the recorded pair if none is given."""
    path.write_bytes(plan_bytes(*(programs or (ENGINE, FUSION))))
    return path
