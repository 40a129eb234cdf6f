"""The record as a status page: plain HTML without scripts, with every text escaped."""

import time
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from string import Template

from internvl_edge.runtime.serve.observe.histogram import Histogram
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.signature import Signature, Tensor

_TEMPLATE = "templates/status.html"
_NOTHING = "-"
_SHOWN = 3
"""Number of inputs or outputs of a model that are listed: a decoder has one for each layer."""


def page_html(record: Record, signatures: Mapping[str, Signature], ready: bool, version: str) -> str:
    """Return the status page."""
    template = Template(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        state="ready" if ready else "not ready",
        mood="good" if ready else "bad",
        version=escape(version),
        uptime=_duration(time.time() - record.started),
        under_way=record.under_way,
        depth=record.depth,
        hits=record.lookups[True],
        misses=record.lookups[False],
        models=_rows(_model(record, signature) for signature in signatures.values()),
        answers=_rows(_answers(record, model) for model in sorted(record.first_piece)),
        stages=_rows(
            ([model, stage], [str(times.count), _ms(times.sum / times.count)])
            for (model, stage), times in sorted(record.stages.items())
        ),
        refusals=_rows(
            ([model or _NOTHING, reason], [str(count)]) for (model, reason), count in sorted(record.refusals.items())
        ),
        workers=_rows(
            ([worker, "up" if alive else "down"], [str(record.deaths[worker])])
            for worker, alive in sorted(record.workers.items())
        ),
    )


def _model(record: Record, signature: Signature) -> tuple[list[str], list[str]]:
    latency = record.latency.get(signature.name) or Histogram()
    batches = record.batches.get(signature.name)
    words = [signature.name, _tensors(signature.inputs), _tensors(signature.outputs)]
    figures = [str(latency.count), _bound(latency, 0.5), _bound(latency, 0.99)]
    return words, [*figures, f"{batches.sum / batches.count:.1f}" if batches else _NOTHING]


def _answers(record: Record, model: str) -> tuple[list[str], list[str]]:
    first, rates = record.first_piece[model], record.token_rates.get(model)
    figures = [str(first.count), *(str(record.tokens[model, kind]) for kind in ("prompt", "completion"))]
    speed = f"{rates.sum / rates.count:.3g}" if rates else _NOTHING
    return [model], [*figures, _bound(first, 0.5), _bound(first, 0.99), speed]


def _rows(rows: Iterable[tuple[list[str], list[str]]]) -> str:
    return "\n".join(
        "<tr>" + "".join(f"<td>{escape(w)}" for w in words) + "".join(f'<td class="n">{escape(n)}' for n in numbers)
        for words, numbers in rows
    )


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    shown = [f"{t.name} {t.datatype} [{', '.join(map(str, t.shape))}]" for t in tensors[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else "")


def _bound(latency: Histogram, part: float) -> str:
    if not latency.count:
        return _NOTHING
    bound = latency.quantile(part)
    return f"over {latency.bounds[-1]:g} s" if bound is None else f"≤ {_ms(bound)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s"
