"""Cut the recorded excerpt out of a plan: `make_excerpt.py PLAN`, the demo's vision graph in fp16 for rtx-4090.

It keeps the first half of block 0, up to the output projection, and what these steps refer to, as written.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = "vision_model.encoder.layers.0"
LAST = "__myl_FcAddMulAdd"
HEADER = re.compile(r"^  (version|region|inputs|outputs|shape_inputs|accelerators)\b")


def main() -> None:
    """Write excerpt.txt (the engine's program) and excerpt_fusion.txt (the program of its runtime fusion)."""
    data = Path(sys.argv[1]).read_bytes()
    starts = [match.start() for match in re.finditer(rb"header \{\n", data)][:2]
    lengths = [int.from_bytes(data[start - 8 : start], "little") for start in starts]
    engine, fusion = (data[s : s + n].decode() for s, n in zip(starts, lengths, strict=True))
    (HERE / "excerpt.txt").write_text(cut(engine))
    (HERE / "excerpt_fusion.txt").write_text(fusion)


def cut(text: str) -> str:
    """Return the excerpt of an engine's program."""
    sections = {m[1]: m[2].splitlines() for m in re.finditer(r"^(\w+) \{\n(.*?)^\}\n", text, re.MULTILINE | re.DOTALL)}
    steps, over = [], False
    for line in sections["main"]:
        over = over or (bool(steps) and f"name={LAST}" in steps[-1])
        if re.match(r"  (signal|wait|shape_call)=| label", line) or (not over and f"ONNX Layer: {BLOCK}." in line):
            steps.append(line)
    sums = [
        line
        for line in sections["shape_main"]
        if re.match(r"  (copy|mul|geq|leq|memset|assert)=|  and=.*__mye37677| label", line)
    ]
    sums = [line for line in sums if "assert=" not in line or line.endswith("}")]
    used = set(re.findall(r'"([^"]*)"', "".join((*steps, *sections["header"][-30:]))))
    kept = [line for line in sections["descriptors"] if set(re.findall(r'(?:name|base)="([^"]+)"', line)) & used]
    named = {name for line in kept for name in re.findall(r'"([^"]*)"', line)}
    more = [line for line in sections["descriptors"] if line not in kept and _name(line) in named]
    header = [line for line in sections["header"] if HEADER.match(line)]
    parts = {"header": header, "descriptors": kept + more, "main": steps, "shape_main": sums}
    return "".join("\n".join((f"{name} {{", *lines, "}\n")) for name, lines in parts.items())


def _name(line: str) -> str | None:
    found = re.search(r' name="([^"]+)"', line)
    return found[1] if found else None


if __name__ == "__main__":
    main()
