"""Tables of the fields of a checkpoint's files, one for each kind of file, and one reader for all of them.

A table lists every known field and how it is handled: the program uses it, it has no effect on what the model computes,
or only some of its values are supported. An unknown field might change what the model computes, so it is an error until
the user accepts it by name.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from internvl_edge.runtime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Honoured:
    """A field whose value the program uses, under the name `target`."""

    target: str
    convert: Callable[[Any], Any] | None = None
    """Function that converts the value; it raises a ValueError with the finding if the value is not valid."""


@dataclass(frozen=True, slots=True)
class Harmless:
    """A field that has no effect on what the model computes, with any value."""


@dataclass(frozen=True, slots=True)
class Limited:
    """A field of which only some values are supported; the program refuses all others, and does not use the value."""

    supported: Callable[[Any], bool]
    finding: str
    """Message about other values, which follows the field's name and value."""
    acceptable: bool = False
    """Whether the user may accept another value as having no effect."""


Field = Honoured | Harmless | Limited

HARMLESS = Harmless()


def only(*values: Any, finding: str = "is not supported", acceptable: bool = False) -> Limited:
    """Return a field for which only `values` are supported, besides ``null``."""
    return Limited(lambda value: any(value == supported for supported in values), finding, acceptable)


def harmless(*names: str) -> dict[str, Field]:
    """Return table entries for fields that have no effect on the model."""
    return dict.fromkeys(names, HARMLESS)


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The known fields of one kind of file, or of one part of a file."""

    file: str
    """Name of the file, for example ``config.json``."""
    fields: Mapping[str, Field]
    others: Literal["unknown", "harmless"] = "unknown"
    """How fields that the table does not list are handled."""


@dataclass(slots=True)
class FieldReader:
    """Reader of the files of one checkpoint by their tables; it collects all findings for one error."""

    accept: frozenset[str] = frozenset()
    """Full names of fields that the user declares to have no effect, as in the error."""
    accepted: list[str] = field(default_factory=list)
    """Full names in `accept` that occur in the files."""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """File -> its findings."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Full name of each unknown field -> its value as text."""
    doubtful: list[str] = field(default_factory=list)
    """Full names of known fields with refused values that the user may accept."""

    def read(self, table: FieldTable, content: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        """Return the used values of `content` by target name; ``null`` is the same as an absent field.

        `part` is the name of the object in the file that `content` is, for example ``vision_config``. Findings are kept
        for `finish`.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, value in content.items():
            if value is None:
                continue
            written = name if name.isprintable() else ascii(name)
            shown = f"{part}.{written}" if part else written
            match table.fields.get(name):
                case Honoured(target, convert):
                    try:
                        converted = value if convert is None else convert(value)
                    except ValueError as error:
                        self.find(table.file, f"{shown} {error}")
                        continue
                    if target in values and values[target] != converted:
                        said = f"{sources[target]} is {_text(values[target])} and {shown} is {_text(converted)}"
                        self.find(table.file, f"{said}, but they mean the same thing")
                    values[target], sources[target] = converted, shown
                case Limited(supported, finding, acceptable):
                    if supported(value):
                        continue
                    if acceptable:
                        self.doubt(table.file, shown, f"{_text(value)} {finding}")
                    else:
                        self.find(table.file, f"{shown} {_text(value)} {finding}")
                case Harmless():
                    pass
                case None:
                    if table.others == "unknown":
                        self._add_unknown(table.file, shown, value)
        return values

    def find(self, file: str, finding: str) -> None:
        """Add a finding about `file`."""
        self.findings.setdefault(file, []).append(finding)

    def doubt(self, file: str, field_name: str, finding: str) -> None:
        """Add a finding about one field, unless the user accepts the field."""
        if not self._accepts(file, field_name):
            self.find(file, f"{field_name} {finding}")
            self.doubtful.append(full_name(file, field_name))

    def finish(self) -> tuple[str, ...]:
        """Return the names of the accepted fields.

        Raises:
            CheckpointError: all findings and all unknown fields of all files, in one line.
        """
        if self.findings or self.unknown:
            self.fail()
        return tuple(self.accepted)

    def fail(self) -> NoReturn:
        """Raise a CheckpointError with all findings and unknown fields."""
        said = [f"{file}: {'; '.join(findings)}" for file, findings in self.findings.items()]
        remedies = ["correct the file or choose another checkpoint"] if said else []
        if self.unknown:
            unknown = ", ".join(f"{name} = {value}" for name, value in self.unknown.items())
            said.append(f"unknown fields that could change what the model computes: {unknown}")
        if acceptable := [*self.unknown, *self.doubtful]:
            options = " ".join(f"--accept-config {shlex.quote(name)}" for name in acceptable)
            remedies.append(f"remove what the model does not need, or accept it as having no effect: {options}")
        raise CheckpointError(f"{'; '.join(said)}; {'; '.join(remedies)}")

    def _add_unknown(self, file: str, shown: str, value: Any) -> None:
        """Add an unknown field, unless its value is empty or the user accepts it."""
        if isinstance(value, (str, list, dict)) and not value:
            return
        if not self._accepts(file, shown):
            self.unknown[full_name(file, shown)] = _text(value)

    def _accepts(self, file: str, shown: str) -> bool:
        """Return whether the user accepts a field, and record it if so."""
        name = full_name(file, shown)
        if accepted := name in self.accept:
            self.accepted.append(name)
        return accepted


def full_name(file: str, field_name: str) -> str:
    """Return a field's name for `--accept-config`; it begins with the file's name if that is not `config.json`."""
    return field_name if file == "config.json" else f"{file.removesuffix('.json')}.{field_name}"


def flag(value: Any) -> bool:
    """Return `value`, which must be true or false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"is {value!r}, which is neither true nor false")
    return value


def listed(names: Iterable[str], shown: int = 8) -> str:
    """Return the first `shown` names in one line, and the number of the others."""
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")


def _text(value: Any, limit: int = 60) -> str:
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
