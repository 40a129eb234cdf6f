"""What a bundle is worth on labelled pictures: recall, zero-shot accuracy, captions, nearness to another bundle."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from internvl_edge.calib.dataset import DataSet, open_data
from internvl_edge.calib.metrics import accuracy, exact_match, recall
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.features import unit
from internvl_edge.runtime.generation import GenerationConfig
from internvl_edge.runtime.model import InternVL

TASKS = ("retrieval", "zero_shot", "captions")
MODES = ("c", "g")
"""InternVL-C and InternVL-G."""
MAX_NEW_TOKENS = 32
"""Greedy captions end here, as those that the demo's figures were recorded with."""

Directions = Mapping[str, Mapping[str, float]]
"""``image_to_text`` and ``text_to_image`` -> R@k -> percent."""
Cosines = Mapping[str, Mapping[str, float]]
"""``images.c``, ``texts.en`` -> ``mean`` and ``min``."""

_TOKENIZER = "tokenizer.model"
_EMBEDDING = "image embedding"
_NEEDS = {
    "retrieval": ("vision", "text", _EMBEDDING, _TOKENIZER),
    "zero_shot": ("vision", "text", _EMBEDDING, _TOKENIZER),
    "captions": ("vision", "query", "decoder", _TOKENIZER),
}


class Progress(Protocol):
    """Shows long work: a task has a label and a total, and is advanced from inside its block."""

    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Open a task of `total` units."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What is measured, and on how much.

    Raises:
        InputError: options that leave nothing to measure, all of them named.
    """

    tasks: tuple[str, ...] = TASKS
    limit: int | None = None
    """Pictures, spread evenly over the set; fewer candidates make retrieval easier."""
    languages: tuple[str, ...] | None = None
    """Default: all that the data knows."""
    batch_size: int = 64
    backend: str = "onnxruntime"
    bf16: bool = False
    """Let a processor compute the bundle in bf16; the baseline never is."""

    def __post_init__(self) -> None:
        """Check the options, all at once."""
        wrong = []
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            wrong.append(f"tasks: {', '.join(unknown) or 'none'}; choose from {', '.join(TASKS)}")
        if self.limit is not None and self.limit < 1:
            wrong.append(f"limit: {self.limit} pictures; give 1 or more, or none for all")
        if self.languages is not None and not self.languages:
            wrong.append("languages: none; name some, or leave them out for all")
        if self.batch_size < 1:
            wrong.append(f"batch_size: {self.batch_size} rows; give 1 or more")
        if wrong:
            raise InputError("; ".join(wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a model answers to a data set, before any comparison."""

    images: Mapping[str, np.ndarray]
    """Mode -> raw ``[B, D]``."""
    texts: Mapping[str, np.ndarray]
    """Language -> raw ``[T, D]`` of the rows that have a caption in it."""
    classifiers: Mapping[str, np.ndarray]
    """Language -> zero-shot classifier ``[D, classes]``."""
    captions: Mapping[str, list[str]]
    """Language -> one caption a picture."""
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Figures of one bundle, in percent."""

    pictures: int
    retrieval: Mapping[str, Mapping[str, Directions]] = field(default_factory=dict)
    """Mode -> language -> direction -> R@k."""
    zero_shot: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Mode -> language -> accuracy."""
    captions: Mapping[str, float] = field(default_factory=dict)
    """Language -> exact match."""
    skipped: tuple[tuple[str, str], ...] = ()
    """What was not measured, and why."""

    @property
    def mean_recall_at_1(self) -> float | None:
        """Mean over modes, languages and both directions; None where there is none."""
        languages = [directions for mode in self.retrieval.values() for directions in mode.values()]
        return _mean(recalls["R@1"] for directions in languages for recalls in directions.values())

    @property
    def mean_zero_shot(self) -> float | None:
        """Mean over modes and languages; None where there is none."""
        return _mean(percent for mode in self.zero_shot.values() for percent in mode.values())

    @property
    def mean_exact_match(self) -> float | None:
        """Mean over languages; None where there is none."""
        return _mean(self.captions.values())

    def to_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        return {
            "pictures": self.pictures,
            "mean_recall_at_1": self.mean_recall_at_1,
            "mean_zero_shot": self.mean_zero_shot,
            "mean_exact_match": self.mean_exact_match,
            "retrieval": self.retrieval,
            "zero_shot": self.zero_shot,
            "captions": self.captions,
            "skipped": [{"what": what, "reason": reason} for what, reason in self.skipped],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A bundle's figures, and those of the bundle that it is compared with."""

    report: EvalReport
    baseline: EvalReport | None = None
    cosines: Cosines | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        baseline = self.baseline.to_json() if self.baseline else None
        return {"bundle": self.report.to_json(), "baseline": baseline, "cosines": self.cosines}


def evaluate_bundle(
    bundle: Path, data: Path, options: EvalOptions, baseline: Path | None = None, progress: Progress | None = None
) -> Evaluation:
    """Measure a bundle on a data set, and a baseline on the same rows.

    Raises:
        EdgeError: a bundle or data that cannot be read; data without labels, and no baseline.
    """
    content = open_data(data)
    if baseline is None:
        _check_labels(content, options)
    model = _opened(bundle, options, options.bf16)
    reference = None if baseline is None else _opened(baseline, options, bf16=False)
    features = measure(model, content, options, progress)
    report = score(features, content, options)
    if reference is None:
        return Evaluation(report=report)
    del model  # its graphs leave memory before the baseline's are loaded
    other = measure(reference, content, options, progress)
    return Evaluation(report=report, baseline=score(other, content, options), cosines=cosines(features, other))


def evaluate(model: InternVL, data: DataSet, options: EvalOptions, progress: Progress | None = None) -> EvalReport:
    """Return the figures of an opened bundle on labelled pictures.

    Raises:
        InputError: data without labels for any of the tasks.
        BundleError: features that are no numbers.
    """
    _check_labels(data, options)
    return score(measure(model, data, options, progress), data, options)


def measure(model: InternVL, data: DataSet, options: EvalOptions, progress: Progress | None = None) -> Features:
    """Return what the model answers; each picture is read once and passes `vision` and `query` once.

    Raises:
        InputError: pictures that cannot be read, languages or prompts that do not fit the data.
        BundleError: features that are no numbers.
    """
    plan = _plan(_parts(model), data, options)
    names, templates = data.prompts.class_names, data.prompts.templates
    prompted = {language: len(names[language]) * len(templates[language]) for language in plan.classifiers}
    texts, classifiers = {}, {}
    with _task(progress, "Encoding texts", sum(map(len, plan.texts.values())) + sum(prompted.values())) as advance:
        for language, captions in plan.texts.items():
            texts[language] = _checked(model.encode_text(captions), f"text_embeds in {_shown(language)}")
            advance(len(captions))
        for language, count in prompted.items():
            columns = model.classifier(names[language], templates[language]).T
            classifiers[language] = _checked(columns, f"classifier in {_shown(language)}").T
            advance(count)
    with _task(progress, "Encoding pictures", len(plan.data.rows)) as advance:
        images, written = _through_vision(model, plan, options.batch_size, advance)
    return Features(images=images, texts=texts, classifiers=classifiers, captions=written, skipped=tuple(plan.skipped))


def score(features: Features, data: DataSet, options: EvalOptions) -> EvalReport:
    """Return the figures of features that `measure` took with the same data and options.

    Raises:
        InputError: features of another number of pictures.
    """
    rows = _chosen(data, options).rows
    counts = {*map(len, features.images.values()), *map(len, features.captions.values())}
    if wrong := sorted(counts - {len(rows)}):
        raise InputError(f"features of {wrong[0]} pictures but {len(rows)} rows; score with the options of measure")
    units = {mode: unit(values) for mode, values in features.images.items()}
    captioned = {
        language: [index for index, row in enumerate(rows) if language in row.texts]
        for language in (*features.texts, *features.captions)
    }
    places = {group: index for index, group in enumerate(data.prompts.classes)}
    grouped = [index for index, row in enumerate(rows) if row.group in places]
    right = np.array([places[row.group] for row in rows if row.group is not None and row.group in places], np.int64)
    return EvalReport(
        pictures=len(rows),
        retrieval={
            mode: {
                language: _recalls(images[captioned[language]] @ unit(texts).T)
                for language, texts in features.texts.items()
            }
            for mode, images in units.items()
            if features.texts
        },
        zero_shot={
            mode: {
                language: accuracy(images[grouped] @ classifier, right)
                for language, classifier in features.classifiers.items()
            }
            for mode, images in units.items()
            if features.classifiers
        },
        captions={
            language: exact_match(
                [found[index] for index in captioned[language]],
                [rows[index].texts[language] for index in captioned[language]],
            )
            for language, found in features.captions.items()
        },
        skipped=features.skipped,
    )


def cosines(a: Features, b: Features) -> dict[str, dict[str, float]]:
    """Return the mean and lowest cosine between the same pictures and texts of two models.

    Raises:
        InputError: features of different shapes.
    """
    others = _named(b)
    pairs = {name: (values, others[name]) for name, values in _named(a).items() if name in others}
    wrong = [f"{name} {list(x.shape)} and {list(y.shape)}" for name, (x, y) in pairs.items() if x.shape != y.shape]
    if wrong:
        raise InputError(f"features do not pair up: {', '.join(wrong)}; compare bundles of one checkpoint")
    found = {}
    for name, (x, y) in pairs.items():
        cosine = (unit(x) * unit(y)).sum(axis=1, dtype=np.float64)
        found[name] = {"mean": float(cosine.mean()), "min": float(cosine.min())}
    return found


def evaluation_text(report: EvalReport, baseline: EvalReport | None = None, cosines: Cosines | None = None) -> str:
    """Return the figures as tables with a column a language; with a baseline also the difference to it in points."""
    found = _figures(report)
    blocks = [[f"{report.pictures} pictures, percent", *_table(found, ".1f")]] if found else []
    if baseline is not None and (differences := _differences(found, _figures(baseline))):
        blocks.append(["difference to the baseline, points", *_table(differences, "+.1f")])
    blocks.append(_mean_lines(report, baseline))
    if cosines:
        lines = [f"{name:<22}{values['mean']:>12.7f}{values['min']:>12.7f}" for name, values in cosines.items()]
        blocks.append([f"{'cosine to the baseline':<22}{'mean':>12}{'min':>12}", *lines])
    blocks.append([f"skipped {what}: {reason}" for what, reason in report.skipped])
    if baseline is not None:
        skipped = [pair for pair in baseline.skipped if pair not in report.skipped]
        blocks.append([f"skipped {what} of the baseline: {reason}" for what, reason in skipped])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


@dataclass
class _Plan:
    """What both the bundle and the data allow."""

    data: DataSet
    modes: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    classifiers: list[str] = field(default_factory=list)
    caption_prompts: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def _plan(parts: set[str], data: DataSet, options: EvalOptions) -> _Plan:
    chosen = _chosen(data, options)
    plan = _Plan(chosen)
    _check_languages(data, options)
    wanted = {
        "retrieval": _retrievable(chosen, options),
        "zero_shot": _classifiable(chosen, options),
        "captions": _captionable(chosen, options),
    }
    for task in options.tasks:
        languages, reasons = wanted[task]
        lacking = _lacking(parts, _NEEDS[task])
        if task == "retrieval" and languages and not _lacking(parts, ("text", _TOKENIZER)):
            # texts can be compared to a baseline's though there are no pictures to retrieve
            plan.texts = {name: [row.texts[name] for row in chosen.rows if name in row.texts] for name in languages}
        if lacking:
            plan.skipped.append((task, f"the bundle has no {', no '.join(lacking)}"))
            continue
        plan.skipped += reasons
        if task == "zero_shot":
            plan.classifiers = languages
        elif task == "captions":
            plan.caption_prompts = {name: data.prompts.caption_prompts[name] for name in languages}
    if not _lacking(parts, ("vision", _EMBEDDING)):
        plan.modes = list(MODES if "query" in parts else MODES[:1])
        if "query" not in parts:
            plan.skipped.append(("InternVL-G", "the bundle has no query graph"))
    return plan


def _retrievable(data: DataSet, options: EvalOptions) -> tuple[list[str], list[tuple[str, str]]]:
    languages = [name for name in data.languages if options.languages is None or name in options.languages]
    return languages, [] if languages else [("retrieval", "no picture has a caption")]


def _classifiable(data: DataSet, options: EvalOptions) -> tuple[list[str], list[tuple[str, str]]]:
    prompts = data.prompts
    known = sum(row.group in prompts.classes for row in data.rows)
    if not prompts.classes:
        return [], [("zero_shot", "no prompts.json with classes beside the data")]
    if not known:
        return [], [("zero_shot", "no picture has a group that prompts.json knows")]
    named = [name for name in prompts.class_names if options.languages is None or name in options.languages]
    languages = [name for name in named if prompts.templates.get(name)]
    reasons = [("zero_shot", f"no template in {_shown(name)}") for name in named if name not in languages]
    if not named:
        reasons.append(("zero_shot", "no class names in prompts.json"))
    wrong = [
        f"{_shown(name)} has {len(prompts.class_names[name])} class names for {len(prompts.classes)} classes"
        for name in languages
        if len(prompts.class_names[name]) != len(prompts.classes)
    ]
    wrong += [
        f"{_shown(name)} has the template {template!r} without {{}}"
        for name in languages
        for template in prompts.templates[name]
        if "{}" not in template
    ]
    if wrong:
        raise InputError(f"{data.source.parent / 'prompts.json'}: {', '.join(wrong)}; repair them")
    if known < len(data.rows):
        absent = len(data.rows) - known
        reasons.append(("zero_shot", f"{absent} of {len(data.rows)} pictures have no group that prompts.json knows"))
    return languages, reasons


def _captionable(data: DataSet, options: EvalOptions) -> tuple[list[str], list[tuple[str, str]]]:
    captioned, _ = _retrievable(data, options)
    if not captioned:
        return [], [("captions", "no picture has a caption")]
    languages = [name for name in captioned if name in data.prompts.caption_prompts]
    unprompted = [_shown(name) for name in captioned if name not in languages]
    reason = f"no caption prompt in {', '.join(unprompted)}; prompts.json has none"
    return languages, [("captions", reason)] if unprompted else []


def _check_labels(data: DataSet, options: EvalOptions) -> None:
    chosen = _chosen(data, options)
    _check_languages(data, options)
    wanted = {"retrieval": _retrievable, "zero_shot": _classifiable, "captions": _captionable}
    if not any(wanted[task](chosen, options)[0] for task in options.tasks):
        raise InputError(
            f"{data.source}: has no captions or classes for {', '.join(options.tasks)};"
            " give a JSONL with a `label` per line, or a baseline to compare features with"
        )


def _check_languages(data: DataSet, options: EvalOptions) -> None:
    known = dict.fromkeys((*data.languages, *data.prompts.class_names))
    if unknown := [name for name in options.languages or () if name not in known]:
        listed = ", ".join(map(_shown, known)) or "none"
        raise InputError(f"{data.source}: has nothing in {', '.join(unknown)}; choose from {listed}")


def _chosen(data: DataSet, options: EvalOptions) -> DataSet:
    return data if options.limit is None else data.spread(options.limit)


def _opened(bundle: Path, options: EvalOptions, bf16: bool) -> InternVL:
    settings = SessionOptions(bf16=bf16)
    return InternVL.open(bundle, backend=options.backend, batch_size=options.batch_size, options=settings)


def _parts(model: InternVL) -> set[str]:
    """Return what the model has: graphs, image embedding, tokenizer."""
    manifest = model.bundle.manifest
    parts = set(manifest.graphs)
    if "vision" in parts and model.info.embed_dim is not None:
        parts.add(_EMBEDDING)
    return parts | ({_TOKENIZER} & set(manifest.files))


def _lacking(parts: set[str], needed: Iterable[str]) -> list[str]:
    """Return the absent parts by the names that users know."""
    return [name if name in (_EMBEDDING, _TOKENIZER) else f"{name} graph" for name in needed if name not in parts]


def _through_vision(
    model: InternVL, plan: _Plan, batch_size: int, advance: Callable[[int], None]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return picture features by mode and captions by language, of one pass over the pictures."""
    images: dict[str, list[np.ndarray]] = {mode: [] for mode in plan.modes}
    captions: dict[str, list[str]] = {language: [] for language in plan.caption_prompts}
    if not images and not captions:
        return {}, {}
    for start in range(0, len(plan.data.rows), batch_size):
        rows = plan.data.rows[start : start + batch_size]
        pixels = model.preprocess([plan.data.picture(row) for row in rows])
        vision = model.run_graph("vision", {"pixel_values": pixels})
        query: Mapping[str, np.ndarray] = {}
        if "g" in images or captions:
            query = model.run_graph("query", {"vision_states": vision["vision_states"]})
        if "c" in images:
            images["c"].append(_checked(vision["image_embeds"], "image_embeds"))
        if "g" in images:
            images["g"].append(unit(images["c"][-1]) + unit(_checked(query["query_embeds"], "query_embeds")))
        for language, prompt in plan.caption_prompts.items():
            captions[language] += _captions(model, query, prompt)
        advance(len(rows))
    return {mode: np.concatenate(parts) for mode, parts in images.items()}, captions


def _captions(model: InternVL, query: Mapping[str, np.ndarray], prompt: str) -> list[str]:
    """Return a greedy caption for each row of the query graph's outputs."""
    rows = len(next(iter(query.values())))
    prompts = np.repeat(model.tokenizer.encode_prompt(prompt), rows, axis=0)
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, eos_token_id=model.info.eos_token_id)
    return [model.tokenizer.decode(row) for row in model.continue_from(query, prompts, config)]


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    """Return `features`, of which every row has a direction: NaN compares as never higher, and would rank first."""
    if wrong := int((~(np.isfinite(features).all(axis=1) & features.any(axis=1))).sum()):
        raise BundleError(f"{name}: {wrong} of {len(features)} rows are NaN, inf or all 0; export with a wider type")
    return features


def _named(features: Features) -> dict[str, np.ndarray]:
    return {f"images.{mode}": values for mode, values in features.images.items()} | {
        f"texts.{language}": values for language, values in features.texts.items()
    }


def _task(progress: Progress | None, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None) if progress is None else progress.task(label, total)


def _recalls(scores: np.ndarray) -> dict[str, dict[str, float]]:
    return {"image_to_text": recall(scores), "text_to_image": recall(scores.T)}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _shown(language: str) -> str:
    return language or "captions without a language"


def _figures(report: EvalReport) -> dict[str, dict[str, float]]:
    """Return all figures as named rows: language -> percent."""
    rows: dict[str, dict[str, float]] = {}
    for mode, languages in report.retrieval.items():
        for direction in ("image_to_text", "text_to_image"):
            for language, directions in languages.items():
                for k, percent in directions[direction].items():
                    rows.setdefault(f"{mode.upper()} {direction.replace('_', ' ')} {k}", {})[language] = percent
    rows |= {f"{mode.upper()} zero-shot accuracy": dict(values) for mode, values in report.zero_shot.items()}
    return rows | ({"caption exact match": dict(report.captions)} if report.captions else {})


def _differences(
    found: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return found minus other where both have a figure."""
    rows = {
        name: {language: value - other[name][language] for language, value in row.items() if language in other[name]}
        for name, row in found.items()
        if name in other
    }
    return {name: row for name, row in rows.items() if row}


def _table(rows: Mapping[str, Mapping[str, float]], number: str) -> list[str]:
    """Return the lines of a table: a column a language and one for their mean."""
    languages = list(dict.fromkeys(language for row in rows.values() for language in row))
    cells = [["", *(language or "-" for language in languages), "mean"]]
    for name, row in rows.items():
        values = [row.get(language) for language in languages]
        cells.append(
            [name, *("-" if value is None else f"{value:{number}}" for value in [*values, _mean(row.values())])]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]


def _mean_lines(report: EvalReport, baseline: EvalReport | None) -> list[str]:
    """Return the three means; a difference only of means over the same figures."""
    lines = []
    means = {
        "R@1": "mean_recall_at_1",
        "zero-shot accuracy": "mean_zero_shot",
        "caption exact match": "mean_exact_match",
    }
    comparable = baseline is not None and _keys(report) == _keys(baseline)
    for name, attribute in means.items():
        value = getattr(report, attribute)
        if value is None:
            continue
        line = f"mean {name} {value:.2f}"
        if comparable:
            other = getattr(baseline, attribute)
            line += f", baseline {other:.2f}, difference {value - other:+.2f}"
        lines.append(line)
    return lines


def _keys(report: EvalReport) -> dict[str, list[str]]:
    return {name: sorted(row) for name, row in _figures(report).items()}
