"""Every numeric bound of the suite, with its reason."""

GOLDEN_FP32 = 1e-4
"""Largest absolute difference to the recorded reference in fp32: another order of summation moves values by about 1e-5."""

FP16_RELATIVE = 1e-2
"""Of the largest value of an output: fp16 rounds at 5e-4, and a few blocks add up some roundings."""

BF16_WEIGHTS_RELATIVE = 6e-2
"""Of the largest value: bf16 weights round at 4e-3; the arithmetic here is fp32, since no CPU kernel of ONNX Runtime is bf16."""

DEMO_POINTS = 0.3
"""Percentage points that a metric of the demo may differ from the recorded fp32 reference: near ties fall either way (one picture is 0.054 points)."""
