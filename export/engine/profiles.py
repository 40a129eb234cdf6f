"""Make the optimization profiles of a graph: min, opt and max of every dynamic axis, from the manifest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.bundle.engines import Profile, Shapes
from internvl_edge.runtime.bundle.manifest import Manifest, TensorSpec
from internvl_edge.runtime.errors import EngineError

Range = tuple[int, int, int]
"""Minimum, optimum and maximum of an axis."""
MOST_ROWS = 4096
"""Largest maximum of an axis, since a plan reserves memory for its largest shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRanges:
    """Ranges of the axes that a user can choose."""

    batch: Range = (1, 1, 8)
    text_length: Range = (1, 16, 80)
    """Range of tokens of a text, bos and eos included; the model's limit is 80."""

    def __post_init__(self) -> None:
        """Check both ranges.

        Raises:
            EngineError: with all ranges that are not valid.
        """
        named = {"--batch": self.batch, "--text-length": self.text_length}
        wrong = [f"{flag} {':'.join(map(str, r))}" for flag, r in named.items() if not 1 <= r[0] <= r[1] <= r[2]]
        if wrong:
            raise EngineError(f"{', '.join(wrong)}: not a range; 1 <= min <= opt <= max must hold, as 1:8:32")
        if beyond := [f"{flag} {':'.join(map(str, r))}" for flag, r in named.items() if r[2] > MOST_ROWS]:
            raise EngineError(f"{', '.join(beyond)}: more than {MOST_ROWS}, lower the maximum")


def parse_range(flag: str, text: str) -> Range:
    """Return min, opt, max of a text such as ``1:8:32``; one number is all three, two are min and max with opt at max.

    Raises:
        EngineError: the text is no range.
    """
    if not re.fullmatch(r"[0-9]{1,18}(:[0-9]{1,18}){0,2}", text):
        raise EngineError(f"{flag} {text}: not a range; give min:opt:max as 1:8:32, or one number")
    numbers = [int(part) for part in text.split(":")]
    return (numbers[0], numbers[-1] if len(numbers) < 3 else numbers[1], numbers[-1])


def profiles_for(name: str, inputs: Sequence[TensorSpec], manifest: Manifest, ranges: AxisRanges) -> list[Profile]:
    """Return the profiles of graph `name`, or of a part of it, for the dynamic axes of `inputs`.

    A graph with a cache has two profiles: one for the prompt, and one for a single token after a growing past.

    Raises:
        EngineError: texts may be longer than the model's limit, or an axis has no known range.
    """
    use, model = manifest.graphs[name].use, manifest.model
    if use.takes_texts and ranges.text_length[2] > (longest := model.require_text().max_text_length):
        asked = ":".join(map(str, ranges.text_length))
        raise EngineError(f"--text-length {asked}: {name} takes {longest} tokens at most; lower it")
    axes: list[dict[str, Range]] = [{"batch": ranges.batch, "texts": ranges.batch, "length": ranges.text_length}]
    if use.prompt_tokens is not None:
        queries, (usual, most) = model.num_query_tokens, use.new_tokens
        longest = model.require_language().max_context if use.in_chunks else queries + use.prompt_tokens[2] + most
        before = (queries, queries, longest if use.in_chunks else queries)
        prompt = {"batch": ranges.batch, "length": use.prompt_tokens, "past": before}
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
    """Return the terms of the sum `dim`, which are axes and numbers, as in ``past + length`` or ``length + 96``."""
    return dim.split(" + ")
