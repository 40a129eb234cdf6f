"""Optimization profiles of each graph: min, opt and max of every dynamic axis, from what the manifest says of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.bundle.engines import Profile, Shapes
from internvl_edge.runtime.bundle.manifest import Manifest, TensorSpec
from internvl_edge.runtime.errors import EngineError

Range = tuple[int, int, int]
MOST_ROWS = 4096
"""Pictures, texts or tokens of one call: a plan reserves memory for its largest shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRanges:
    """min, opt and max of the axes that a user chooses."""

    batch: Range = (1, 1, 8)
    text_length: Range = (1, 16, 80)
    """80 tokens is the model's limit, bos and eos included."""

    def __post_init__(self) -> None:
        """Refuse ranges that are none, all at once."""
        named = {"--batch": self.batch, "--text-length": self.text_length}
        wrong = [f"{flag} {':'.join(map(str, r))}" for flag, r in named.items() if not 1 <= r[0] <= r[1] <= r[2]]
        if wrong:
            raise EngineError(f"{', '.join(wrong)}: not a range; 1 <= min <= opt <= max must hold, as 1:8:32")
        if beyond := [f"{flag} {':'.join(map(str, r))}" for flag, r in named.items() if r[2] > MOST_ROWS]:
            raise EngineError(f"{', '.join(beyond)}: more than {MOST_ROWS}, lower the maximum")


def parse_range(flag: str, text: str) -> Range:
    """Return ``1:8:32`` as min, opt, max; one number stands for all three, two for min and max with opt at max.

    Raises:
        EngineError: it is no such text.
    """
    if not re.fullmatch(r"[0-9]{1,18}(:[0-9]{1,18}){0,2}", text):
        raise EngineError(f"{flag} {text}: not a range; give min:opt:max as 1:8:32, or one number")
    numbers = [int(part) for part in text.split(":")]
    return (numbers[0], numbers[-1] if len(numbers) < 3 else numbers[1], numbers[-1])


def profiles_for(name: str, inputs: Sequence[TensorSpec], manifest: Manifest, ranges: AxisRanges) -> list[Profile]:
    """Return the profiles of graph `name`, or of a part of it that has `inputs`.

    A graph with a cache has two: a prompt chunk, and one token on a growing past.

    Raises:
        EngineError: texts longer than the model takes, or an axis that no range is known for.
    """
    use, model = manifest.graphs[name].use, manifest.model
    if use.takes_texts and ranges.text_length[2] > (longest := model.require_text().max_text_length):
        asked = ":".join(map(str, ranges.text_length))
        raise EngineError(f"--text-length {asked}: {name} takes {longest} tokens at most; lower it")
    axes: list[dict[str, Range]] = [{"batch": ranges.batch, "texts": ranges.batch, "length": ranges.text_length}]
    if use.prompt_tokens is not None:
        queries, (usual, most) = model.num_query_tokens, use.new_tokens
        longest = queries + use.prompt_tokens[2] + most
        prompt = {"batch": ranges.batch, "length": use.prompt_tokens, "past": (queries, queries, queries)}
        step = {"batch": ranges.batch, "length": (1, 1, 1), "past": (queries + 1, queries + usual, longest)}
        axes = [prompt, step]
    return [_profile(name, inputs, ranges_of) for ranges_of in axes]


def _profile(name: str, inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]) -> dict[str, Shapes]:
    full = dict(ranges)
    if "past" in full:
        past, length = full["past"], full["length"]
        full["total"] = (past[0] + length[0], past[1] + length[1], past[2] + length[2])
    dynamic = [item for item in inputs if any(isinstance(d, str) for d in item.shape)]
    unknown = {
        a
        for item in dynamic
        for d in item.shape
        if isinstance(d, str)
        for a in _axes(d)
        if a not in full and not a.isdigit()
    }
    if unknown:
        raise EngineError(f"{name}: no range is known for axes {', '.join(sorted(unknown))}; report this graph")

    def size(dim: int | str, which: int) -> int:
        return dim if isinstance(dim, int) else sum(int(a) if a.isdigit() else full[a][which] for a in _axes(dim))

    def shape(item: TensorSpec, which: int) -> tuple[int, ...]:
        return tuple(size(dim, which) for dim in item.shape)

    return {item.name: (shape(item, 0), shape(item, 1), shape(item, 2)) for item in dynamic}


def _axes(dim: str) -> list[str]:
    """Return the axes and numbers that add up to `dim`: inside a graph, ``past + length`` or ``length + 96``."""
    return dim.split(" + ")
