"""One name for one thing: options of all commands have the same name, type and text where they mean the same."""

from collections.abc import Iterator

import click
import pytest

from internvl_edge.cli import main
from internvl_edge.commands.options.value_types import ByteSize, Names, Shape

ALIASES = ("--high_precision_dtype", "--quantize_mode", "--calibration_method", "--nodes_to_exclude")
"""Names that trtexec and optimum have for options of ours."""
REPLACED = {
    "--graph": "--graphs",
    "--task": "--tasks",
    "--limit": "--sample-count",
    "--num-samples": "--sample-count",
    "--profile": "--latency",
    "--device-name": "--target",
    "--language": "--languages",
    "--num-threads": "--threads",
    "--percentiles": "--percentile",
    "--out": "--output",
    "--dataset": "--data",
    "--max-batch-size": "--max-batch",
    "--max-tokens": "--max-new-tokens",
    "--beams": "--num-beams",
    "--baseline-bundle": "--baseline",
    "--as-json": "--json",
    "--shapes": "--shape",
}
"""Another word for an option -> the name that the option has in every command."""
PLURALS = {
    "--streams": "`bench --streams` is a number of threads; `run caption --stream` prints token by token",
    "--traces": "`bench --trace` names a file of spans; `serve --traces` sends spans to a collector",
}
"""Option that is the plural of another -> why both are there."""
LONGER = {
    "--batch-size": "`run embed` cuts inputs into calls of that size; `--batch` is of cases or of a profile",
    "--image-size": "the side of the model's input; `package triton --image` is a picture",
    "--text-column": "the field of a table; `--text` is a text",
    "--text-length": "the tokens of a text in a profile",
}
"""Option whose name is that of another and a word more -> why both are there."""
TYPES = {
    "--json": "`bench` writes a file that a later run reads; other commands print",
    "--engine": "`inspect` reads a TensorRT engine; `run embed` chooses what runs the graphs, in Ray's words",
    "--batch": "`build` takes min:opt:max of a profile, `bench` a list of cases, `inspect` one number",
    "--gpus": "Triton takes numbers of GPUs, Ray a share of them",
    "--data": "`export` and `calibrate` take the word random as well, which is no path",
}
"""Option with several types -> why."""
TEXTS = {
    **TYPES,
    "--output": "names what is written: a bundle, ranges, a kit, features",
    "--target": "says what the device is named for",
    "--baseline": "a bundle for `eval`, the file of an earlier run for `bench`",
    "--dtype": "the type of a bundle for `export`, of a file of features for `run embed`",
    "--weights": "Triton cannot share the checkpoint's files",
    "--workers": "`run embed` reads pictures in them, or runs Ray's sessions",
    "--http": "Ray listens on every node and cannot be without HTTP",
    "--html": "names what is on the page",
    "--tasks": "lists the tasks: requests of `bench`, figures of `eval`",
    "--sample-count": "`export` verifies on the first pictures, others spread them over the data",
    "--text": "to rank, to embed, or to warm up on",
}
"""Option with several texts -> why."""


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield " ".join(path), command


def options() -> dict[str, list[tuple[str, click.Option]]]:
    """Return every long option with the commands that have it."""
    found: dict[str, list[tuple[str, click.Option]]] = {}
    for path, command in commands():
        for option in command.params:
            if isinstance(option, click.Option):
                for name in (*option.opts, *option.secondary_opts):
                    if name.startswith("--") and name not in ALIASES:
                        found.setdefault(name, []).append((path, option))
    return found


def kind(option: click.Option) -> str:
    """Return the type of an option's value, whatever its bounds or choices are."""
    if option.is_flag:
        return "flag"
    classes: dict[type[object], str] = {
        click.Path: "path",
        click.Choice: "choice",
        click.types.IntParamType: "integer",
        click.types.FloatParamType: "number",
        Shape: "shape",
        ByteSize: "size",
    }
    if isinstance(option.type, Names):
        return option.type.name
    return next((name for known, name in classes.items() if isinstance(option.type, known)), "text")


OPTIONS = options()


def test_all_commands_are_walked() -> None:
    assert {"export", "serve", "run embed", "package triton"} <= {path for path, _ in commands()}
    assert len(OPTIONS["--graphs"]) == 6


def test_no_name_is_the_plural_of_another() -> None:
    pairs = {name for name in OPTIONS if name.endswith("s") and name.removesuffix("s") in OPTIONS}
    assert pairs == PLURALS.keys()


def test_a_name_with_a_word_more_means_something_else() -> None:
    longer = {name for name in OPTIONS for short in OPTIONS if name.startswith(f"{short}-")}
    assert longer == LONGER.keys()


def test_no_option_has_a_second_name() -> None:
    assert {name: REPLACED[name] for name in OPTIONS if name in REPLACED} == {}
    assert sorted(set(REPLACED.values()) - OPTIONS.keys()) == [], "the list names an option that is gone"


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_name_has_one_type(name: str) -> None:
    found = {kind(option): path for path, option in OPTIONS[name]}
    assert (len(found) > 1) == (name in TYPES), found


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_name_has_one_text(name: str) -> None:
    found = {option.help: path for path, option in OPTIONS[name]}
    assert (len(found) > 1) == (name in TEXTS), found


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=[path for path, _ in commands()])
def test_every_text_is_a_sentence_with_its_default_apart(path: str, command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert text[:1].isupper(), (path, option.name)
            assert text.endswith("."), (path, option.name)
            assert "default" not in text.lower(), f"{path} {option.name}: give show_default, which click prints alike"
