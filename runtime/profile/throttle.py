"""Why an NVIDIA GPU runs below its clock: the bits of NVML's clock event reasons (nvml.h) in words."""

_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Idle (0x1), application clocks (0x2), sync boost (0x10) and display clocks (0x100) are settings, not distress."""


def reasons(mask: int) -> tuple[str, ...]:
    """Return the reasons whose bits are set."""
    return tuple(text for bit, text in _REASONS.items() if mask & bit)
