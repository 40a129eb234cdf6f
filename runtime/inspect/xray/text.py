"""An X-ray as text for a terminal: key figures, then a line for each kernel of the middle block."""

from collections import Counter

from internvl_edge.runtime.inspect.xray.xray_report import Kernel, PlanXray, Sums

_SHAPES = 4
"""Number of inputs that are listed; a decoder has two for each layer."""
_NAME = 46
"""Number of characters in the column of names."""


def xray_text(found: PlanXray) -> str:
    """Return the X-ray `found` as lines of text."""
    lines = [f"{found.plan}: {size(found.plan_bytes)}{f', sm_{found.sm}' if found.sm is not None else ''}"]
    if found.kernels:
        lines += [*_answers(found), "", *_blocks(found), "", *_kernels(found)]
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"not readable: {finding}" for finding in found.unreadable]
    return "\n".join(lines) + "\n"


def size(count: float | None) -> str:
    """Return a number of bytes with three digits and a decimal unit; a dash for None."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.3g} {unit}"


def work(flops: float | None) -> str:
    """Return a number of FLOPs with three digits and a unit; a dash for None or 0."""
    if not flops:
        return "–"
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if flops < 999.5 or unit == "TFLOP":
            break
        flops /= 1000
    return f"{flops:.0f} {unit}" if flops >= 99.95 else f"{flops:.3g} {unit}"


def duration(predicted_ms: float | None) -> str:
    """Return a time with three digits and a unit; a dash for None."""
    if predicted_ms is None:
        return "–"
    value, unit = (predicted_ms, "ms") if predicted_ms >= 0.9995 else (predicted_ms * 1e3, "µs")
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"


def pictured(found: PlanXray) -> tuple[str, list[Kernel]]:
    """Return name and kernels of the representative block: the middle one, else the first one, else the whole plan."""
    block = found.middle.name if found.middle is not None else next((name for name in found.blocks if name), None)
    return (block, [k for k in found.kernels if k.block == block]) if block else ("", list(found.kernels))


def works_for(kernel: Kernel, block: str) -> str:
    """Return the modules of a kernel, that of its own product first, without the path of `block`."""
    ordered = sorted(kernel.modules, key=lambda module: module not in kernel.layers)  # a product has the bare path
    names = (module.removeprefix(f"{block}.").removeprefix(block) or "residual" for module in ordered)
    shown = [name for name in dict.fromkeys(names) if not name.endswith(".weight")]
    return " + ".join(shown) or kernel.name


def shapes_answer(found: PlanXray) -> str:
    """Return the shapes of the first inputs as text."""
    shown = [f"{name} {'×'.join(map(str, shape))}" for name, shape in list(found.shapes.items())[:_SHAPES]]
    return ", ".join(shown) + (f" and {len(found.shapes) - _SHAPES} more" if len(found.shapes) > _SHAPES else "")


def attention_answer(found: PlanXray) -> str:
    """Return a sentence on whether attention is fused."""
    if not found.fused_attention:
        return "not fused"
    kernels = ", ".join(f"{name} x {count}" for name, count in found.fused_attention.items())
    return f"fused ({kernels})" + (f", not in {_blocks_of(found.unfused_attention)}" if found.unfused_attention else "")


def quantization_answer(found: PlanXray) -> str:
    """Return a sentence on where values are quantized and dequantized."""

    narrowing = Counter(kernel.quantizes for kernel in found.kernels)
    widening = Counter(kernel.dequantizes for kernel in found.kernels)
    said = {
        "quantized with other work": narrowing["fused"],
        "quantized by a kernel of its own": narrowing["own"],
        "dequantized in the product": widening["product"],
        "dequantized behind the product, with other work": widening["fused"],
        "dequantized by a kernel of its own": widening["own"],
    }
    return ", ".join(f"{count} x {words}" for words, count in said.items() if count) or "none"


def _answers(found: PlanXray) -> list[str]:
    lines = [f"at {shapes_answer(found)}" + (f", profile {found.profile} of {found.profiles}" * (found.profiles > 1))]
    if found.assumed:
        lines.append(f"sizes not given, taken as small as the plan allows: {', '.join(found.assumed)}")
    middle = found.middle
    if middle is not None:
        span = "" if middle.least == middle.most else f" (inner blocks: {middle.least} to {middle.most})"
        lines.append(f"launches: {found.total.launches}; middle block {middle.launches}{span}")
    else:
        lines.append(f"launches: {found.total.launches}")
    lines += [
        f"attention: {attention_answer(found)}",
        f"quantization: {quantization_answer(found)}",
        f"matrix products: {work(found.total.flops)}, {_share(found.quantized_share)} in 8 bits",
    ]
    if found.high_precision:
        left = [f"{name} {share:.1%}" for name, share in found.high_precision.items()]
        lines.append(
            f"left in high precision: {', '.join(left[:4])}" + (f" and {len(left) - 4} more" * (len(left) > 4))
        )
    lines.append(
        f"memory: weights {size(found.constant_bytes)}, activations {size(found.activation_bytes)} at the largest sizes"
    )
    if found.source is not None:
        lines.append(
            f"predicted for {found.target}: {duration(found.total.predicted_ms)} by the data sheet ({found.source})"
        )
    return lines


def _blocks_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more blocks"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _blocks(found: PlanXray) -> list[str]:
    rows = [_row("block", "launches", "read", "weights", "written", "work", "predicted")]
    rows += [_sums(name or "outside of blocks", sums) for name, sums in found.blocks.items()]
    return [*rows, _sums("whole graph", found.total)]


def _sums(name: str, sums: Sums) -> str:
    return _row(
        _tail(name),
        str(sums.launches),
        size(sums.read_bytes),
        size(sums.weight_bytes),
        size(sums.written_bytes),
        work(sums.flops),
        duration(sums.predicted_ms),
    )


def _row(name: str, *cells: str) -> str:
    return f"{name:<{_NAME}}" + "".join(f"{cell:>12}" for cell in cells)


def _kernels(found: PlanXray) -> list[str]:
    name, kernels = pictured(found)
    rows = [
        _row(f"kernels of {name or 'the graph'}", "kind", "read", "weights", "written", "work", "predicted", "bound")
    ]
    for kernel in kernels:
        read = ("≤ " if kernel.at_most else "") + size(kernel.read_bytes)
        moved = (read, size(kernel.weight_bytes), size(kernel.written_bytes))
        row = _row(
            _tail(kernel.name),
            kernel.category,
            *moved,
            work(kernel.flops),
            duration(kernel.predicted_ms),
            kernel.bound or "–",
        )
        rows.append(f"{row}  {works_for(kernel, name)}")
    return rows


def _tail(name: str) -> str:
    return name if len(name) < _NAME else "…" + name[2 - _NAME :]
