"""Every numeric bound of the suite, with its reason."""

HANG_S = 300
"""Seconds after which what is waited for counts as hanging. No bound on speed: what ends at all ends far below it, also
where other programs keep the processors busy."""

GOLDEN_FP32 = 1e-4
"""Largest absolute difference to the recorded reference in fp32: another order of summation moves 1e-5."""

FP16_RELATIVE = 1e-2
"""Of the largest value of an output: fp16 rounds at 5e-4, and a few blocks add up some roundings."""

BF16_WEIGHTS_RELATIVE = 6e-2
"""Of the largest value: bf16 weights round at 4e-3; the arithmetic is fp32, ONNX Runtime has no bf16 for CPUs."""

DEMO_POINTS = 0.3
"""Points that a metric of the demo may differ from the recorded one: near ties fall either way (a picture is 0.054)."""

SAME_GRAPH_DB = 90.0
"""SQNR of an fp32 graph on ONNX Runtime against torch after any block: another order of summation leaves 100 dB."""

PLANTED_COSINE = 0.98
"""Mean cosine of embeddings when one token and two channels of the demo are given up to massive activations."""

RECALL_POINTS = {"int8": 0.5, "fp8": 0.3}
"""Points of mean R@1 (languages, directions, C and G) that 8 bits may lose on the demo: what the project promises."""

ZERO_SHOT_POINTS = 0.5
"""The same of zero-shot accuracy."""

CAPTION_POINTS = 1.0
"""The same of captions that match exactly: one token of an argmax in 8 bits makes another caption."""

OUTLIER_POINTS = 1.0
"""The same of R@1 and zero-shot accuracy where outliers were planted, against that copy's own fp32."""

PLAN_8BIT_RELATIVE = 5e-2
"""Of the largest value of an output, a plan with 8-bit linears against ONNX Runtime: a value that falls on the other
side of a rounding tie moves a code, and the blocks behind it add such moves up."""

KERNEL_RELATIVE = {"fp16": 4e-3, "bf16": 3e-2}
"""Of the largest value that an attention kernel gives. Its type rounds q, k, weights and result (fp16 at 5e-4, bf16 at
4e-3); scores of some tens make a rounding of q or k about ten times as large in the weights, and most averages out."""

KERNEL_FP8_WEIGHTS_RELATIVE = 3e-2
"""Added where softmax weights are FP8: 3 bits behind the point round at 6e-2 each, the mean over keys is closer."""

KERNEL_FP8_STEP = 2.0**-4
"""FP8 E4M3 rounds to within this of a value."""

KERNEL_CODES_APART = 1.01
"""Codes that an appended row may be off: fp32 against float64 on the other side of a rounding tie moves one."""

SPAN_MICROSECONDS = 20.0
"""What the profiler may add to a call with one span: about 3 are measured; a loaded core is several times slower."""

SUMMED_IN_BLOCKS = 1e-5
"""Values of order 1 whose softmax and sum go over blocks of keys in place of all at once: 5e-7 was seen."""

CHAT_VIT_EMBEDS = 5e-6
"""Embeddings of tiles are about 0.03; another order of summation moves 3e-7, and the tanh form of GELU 1e-4."""

CHAT_LOGITS = 2e-4
"""Logits of the small chat models reach 15: another order of summation moves 3e-5, the least mutation 3e-3."""

CHAT_STATES = 5e-5
"""Hidden states, keys and values: another order of summation moves 1e-5."""

CHAT_LAST_STATE = 3e-4
"""The state behind the last norm, whose gain is up to 10 in one case."""

CHAT_ANSWERS = 0.995
"""Share of the answers of the chat example in fp32 that equal the reference's: a near tie may fall the other way."""

CHAT_POINTS = 0.3
"""Points that exact match of the chat example in fp32 may differ from the reference's."""

CHAT_FP16_POINTS = 0.5
"""The same in fp16, or one question where that is more."""

CHAT_LOG_PROBABILITY = 0.01
"""Natural logarithm of the probability of an answer in fp32, and of the mean in fp16: another order of summation moves
1e-4."""
