"""Selection of what is evaluated: the tasks and languages that both the bundle and the data allow."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from internvl_edge.calib.data.dataset import DataSet
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS, IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.bundle.modes import modes_of
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.tasks.captions import ROLES as CAPTION_ROLES

_TOKENIZER = "tokenizer.model"
_EMBEDDING = "image embedding"
_NEEDS = {
    "retrieval": (IMAGE_ENCODER, TEXT_ENCODER, _EMBEDDING, _TOKENIZER),
    "zero_shot": (IMAGE_ENCODER, TEXT_ENCODER, _EMBEDDING, _TOKENIZER),
    "captions": (*CAPTION_ROLES, _TOKENIZER),
}


@dataclass
class Selection:
    """Tasks and languages to evaluate, and why others are skipped."""

    data: DataSet
    modes: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    classifiers: list[str] = field(default_factory=list)
    caption_prompts: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def select(parts: set[str], data: DataSet, options: EvalOptions) -> Selection:
    """Return what can be evaluated of a model with these parts.

    Raises:
        InputError: languages or prompts that do not fit the data.
    """
    chosen = chosen_rows(data, options)
    selection = Selection(chosen)
    _check_languages(data, options)
    wanted = {
        "retrieval": _retrievable(chosen, options),
        "zero_shot": _classifiable(chosen, options),
        "captions": _captionable(chosen, options),
    }
    for task in options.tasks:
        languages, reasons = wanted[task]
        lacking = _lacking(parts, _NEEDS[task])
        if task == "retrieval" and languages and not _lacking(parts, (TEXT_ENCODER, _TOKENIZER)):
            # texts are compared with a baseline's even where there are no pictures to retrieve
            selection.texts = {
                name: [text for row in chosen.rows for text in row.texts.get(name, ())] for name in languages
            }
        if lacking:
            selection.skipped.append((task, f"the bundle has no {', no '.join(lacking)}"))
            continue
        selection.skipped += reasons
        if task == "zero_shot":
            selection.classifiers = languages
        elif task == "captions":
            selection.caption_prompts = {name: data.prompts.caption_prompts[name] for name in languages}
    if not _lacking(parts, (IMAGE_ENCODER, _EMBEDDING)):
        selection.modes = list(modes_of(parts))
        if "g" not in selection.modes:
            selection.skipped.append(("InternVL-G", f"the bundle has no {EXPORTED_AS[QUERY_ENCODER]} graph"))
    return selection


def check_labels(data: DataSet, options: EvalOptions) -> None:
    """Check that the data has labels for one of the tasks.

    Raises:
        InputError: it has none, or nothing in a language that was asked for.
    """
    chosen = chosen_rows(data, options)
    _check_languages(data, options)
    wanted = {"retrieval": _retrievable, "zero_shot": _classifiable, "captions": _captionable}
    if not any(wanted[task](chosen, options)[0] for task in options.tasks):
        raise InputError(
            f"{data.source}: has no captions or classes for {', '.join(options.tasks)};"
            " give a JSONL with a `label` per line, or a baseline to compare features with"
        )


def chosen_rows(data: DataSet, options: EvalOptions) -> DataSet:
    """Return the rows that the options select."""
    return data if options.sample_count is None else data.subsample(options.sample_count)


def parts_of(model: InternVL) -> set[str]:
    """Return the parts of the model: roles of its graphs, image embedding, tokenizer."""
    manifest = model.bundle.manifest
    parts = set(manifest.roles)
    if IMAGE_ENCODER in parts and model.info.embed_dim is not None:
        parts.add(_EMBEDDING)
    return parts | ({_TOKENIZER} & set(manifest.files))


def language_name(language: str) -> str:
    """Return the name of a language in messages."""
    return language or "captions without a language"


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
    reasons = [("zero_shot", f"no template in {language_name(name)}") for name in named if name not in languages]
    if not named:
        reasons.append(("zero_shot", "no class names in prompts.json"))
    wrong = [
        f"{language_name(name)} has {len(prompts.class_names[name])} class names for {len(prompts.classes)} classes"
        for name in languages
        if len(prompts.class_names[name]) != len(prompts.classes)
    ]
    wrong += [
        f"{language_name(name)} has the template {template!r} without {{}}"
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
    unprompted = [language_name(name) for name in captioned if name not in languages]
    reason = f"no caption prompt in {', '.join(unprompted)}; prompts.json has none"
    return languages, [("captions", reason)] if unprompted else []


def _check_languages(data: DataSet, options: EvalOptions) -> None:
    known = dict.fromkeys((*data.languages, *data.prompts.class_names))
    if unknown := [name for name in options.languages or () if name not in known]:
        listed = ", ".join(map(language_name, known)) or "none"
        raise InputError(f"{data.source}: has nothing in {', '.join(unknown)}; choose from {listed}")


def _lacking(parts: set[str], needed: Iterable[str]) -> list[str]:
    """Return the names of the needed parts that are absent, as users know them."""
    absent = [part for part in needed if part not in parts]
    return [f"{EXPORTED_AS[part]} graph" if part in EXPORTED_AS else part for part in absent]
