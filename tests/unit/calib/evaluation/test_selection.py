"""What is measured, and each reason for what is not, from the parts of a bundle and the labels of the data."""

from pathlib import Path

import pytest

from internvl_edge.calib.data.dataset import DataSet, Prompts
from internvl_edge.calib.evaluation.options import EvalOptions
from internvl_edge.calib.evaluation.selection import check_labels, chosen_rows, language_name, select
from internvl_edge.runtime.bundle.graph_roles import CAPTION_DECODER, IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.read import Record

EMBEDDING, TOKENIZER = "image embedding", "tokenizer.model"
WHOLE = {IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER, CAPTION_DECODER, EMBEDDING, TOKENIZER}
PROMPTS = Prompts(
    caption_prompts={"en": "English:"},
    classes=("cat", "dog"),
    class_names={"en": ("cat", "dog"), "de": ("Katze", "Hund")},
    templates={"en": ("a {}",), "de": ("ein {}",)},
)


def record(texts: dict[str, tuple[str, ...]], group: str | None = None) -> Record:
    return Record(file="a.png", picture=Path("a.png"), texts=texts, group=group)


def dataset(*rows: Record, prompts: Prompts = PROMPTS) -> DataSet:
    return DataSet(Path("set/rows.jsonl"), rows, prompts)


LABELLED = dataset(
    record({"en": ("a cat", "one cat"), "de": ("Katze",)}, "cat"),
    record({"en": ("a dog",)}, "dog"),
)


def test_a_whole_bundle_and_labelled_data() -> None:
    found = select(WHOLE, LABELLED, EvalOptions())
    assert found.data is LABELLED
    assert found.modes == ["c", "g"]
    assert found.texts == {"en": ["a cat", "one cat", "a dog"], "de": ["Katze"]}
    assert found.classifiers == ["en", "de"]
    assert found.caption_prompts == {"en": "English:"}
    assert found.skipped == [("captions", "no caption prompt in de; prompts.json has none")]


def test_only_the_languages_and_tasks_that_are_asked_for() -> None:
    found = select(WHOLE, LABELLED, EvalOptions(tasks=("zero_shot",), languages=("de",)))
    assert (found.texts, found.classifiers, found.caption_prompts) == ({}, ["de"], {})
    assert found.skipped == []
    retrieval = select(WHOLE, LABELLED, EvalOptions(tasks=("retrieval",), languages=("de",)))
    assert (retrieval.texts, retrieval.classifiers) == ({"de": ["Katze"]}, [])


def test_rows_are_spread_by_the_limit() -> None:
    rows = [record({"en": (str(index),)}) for index in range(5)]
    assert [row.texts["en"] for row in chosen_rows(dataset(*rows), EvalOptions(sample_count=2)).rows] == [
        ("0",),
        ("2",),
    ]
    assert select(WHOLE, dataset(*rows), EvalOptions(sample_count=2)).texts == {"en": ["0", "2"]}
    assert len(chosen_rows(dataset(*rows), EvalOptions()).rows) == 5


def test_without_captions_and_classes() -> None:
    found = select(WHOLE, dataset(record({}), prompts=Prompts()), EvalOptions())
    assert (found.texts, found.classifiers, found.caption_prompts) == ({}, [], {})
    assert found.skipped == [
        ("retrieval", "no picture has a caption"),
        ("zero_shot", "no prompts.json with classes beside the data"),
        ("captions", "no picture has a caption"),
    ]


@pytest.mark.parametrize(
    ("group", "prompts", "reasons"),
    [
        ("cow", PROMPTS, ["no picture has a group that prompts.json knows"]),
        ("cat", Prompts(classes=("cat",)), ["no class names in prompts.json"]),
        (
            "cat",
            Prompts(classes=("cat",), class_names={"en": ("cat",), "": ("c",)}, templates={"en": ("{}",)}),
            ["no template in captions without a language"],
        ),
    ],
)
def test_no_class_without_names_and_templates(group: str, prompts: Prompts, reasons: list[str]) -> None:
    found = select(WHOLE, dataset(record({}, group), prompts=prompts), EvalOptions(tasks=("zero_shot",)))
    assert found.skipped == [("zero_shot", reason) for reason in reasons]


def test_pictures_of_no_class_are_counted() -> None:
    rows = [record({}, "cat"), record({}, "cow"), record({})]
    found = select(WHOLE, dataset(*rows), EvalOptions(tasks=("zero_shot",)))
    assert found.classifiers == ["en", "de"]
    assert found.skipped == [("zero_shot", "2 of 3 pictures have no group that prompts.json knows")]


def test_all_faults_of_the_prompts_are_named() -> None:
    prompts = Prompts(
        classes=("cat", "dog"),
        class_names={"en": ("cat",), "de": ("Katze", "Hund", "Kuh")},
        templates={"en": ("a {}", "one"), "de": ("ein {}",)},
    )
    with pytest.raises(InputError) as caught:
        select(WHOLE, dataset(record({}, "cat"), prompts=prompts), EvalOptions())
    assert str(caught.value) == (
        f"{Path('set/prompts.json')}: en has 1 class names for 2 classes, de has 3 class names for 2 classes, "
        "en has the template 'one' without {}; repair them"
    )


@pytest.mark.parametrize(
    ("absent", "texts", "modes", "skipped"),
    [
        (
            {IMAGE_ENCODER, EMBEDDING},
            True,
            [],
            {
                "retrieval": "the bundle has no vision graph, no image embedding",
                "zero_shot": "the bundle has no vision graph, no image embedding",
                "captions": "the bundle has no vision graph",
            },
        ),
        ({EMBEDDING}, True, [], dict.fromkeys(("retrieval", "zero_shot"), "the bundle has no image embedding")),
        ({CAPTION_DECODER}, True, ["c", "g"], {"captions": "the bundle has no decoder graph"}),
        (
            {QUERY_ENCODER},
            True,
            ["c"],
            {"captions": "the bundle has no query graph", "InternVL-G": "the bundle has no query graph"},
        ),
        ({TEXT_ENCODER}, False, ["c", "g"], dict.fromkeys(("retrieval", "zero_shot"), "the bundle has no text graph")),
        (
            {TOKENIZER},
            False,
            ["c", "g"],
            dict.fromkeys(("retrieval", "zero_shot", "captions"), "the bundle has no tokenizer.model"),
        ),
    ],
)
def test_what_a_bundle_lacks(absent: set[str], texts: bool, modes: list[str], skipped: dict[str, str]) -> None:
    """Texts are measured without pictures too: a baseline's may be compared with them."""
    found = select(WHOLE - absent, LABELLED, EvalOptions(languages=("en",)))
    assert bool(found.texts) is texts
    assert found.modes == modes
    assert dict(found.skipped) == skipped


def test_languages_that_nothing_is_in() -> None:
    with pytest.raises(InputError) as caught:
        check_labels(LABELLED, EvalOptions(languages=("it", "en", "fr")))
    assert str(caught.value) == f"{LABELLED.source}: has nothing in it, fr; choose from en, de"
    with pytest.raises(InputError, match=r"has nothing in en; choose from captions without a language$"):
        check_labels(dataset(record({"": ("a",)}), prompts=Prompts()), EvalOptions(languages=("en",)))
    with pytest.raises(InputError, match=r"has nothing in en; choose from none$"):
        check_labels(dataset(record({}), prompts=Prompts()), EvalOptions(languages=("en",)))


@pytest.mark.parametrize("task", ["retrieval", "zero_shot", "captions"])
def test_labels_for_one_task_are_enough(task: str) -> None:
    check_labels(LABELLED, EvalOptions(tasks=(task,)))
    captioned = dataset(record({"en": ("a",)}), prompts=Prompts())
    if task == "retrieval":
        check_labels(captioned, EvalOptions(tasks=(task,)))
    else:
        with pytest.raises(InputError, match=f"has no captions or classes for {task}; give a JSONL"):
            check_labels(captioned, EvalOptions(tasks=(task,)))


def test_labels_only_in_rows_that_the_limit_leaves_out() -> None:
    data = dataset(record({}), record({"en": ("a",)}), prompts=Prompts())
    check_labels(data, EvalOptions(tasks=("retrieval",)))
    with pytest.raises(InputError, match="has no captions"):
        check_labels(data, EvalOptions(tasks=("retrieval",), sample_count=1))


def test_the_name_of_no_language() -> None:
    assert (language_name("en"), language_name("")) == ("en", "captions without a language")
