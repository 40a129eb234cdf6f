"""Headings over the options in the --help of a command that has many."""

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command whose --help lists its options under headings."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **settings: Any) -> None:
        """Set the headings.

        Args:
            args: Arguments of `click.Command`.
            sections: Heading -> its options, as ``--output``, in the order in which they are listed.
            settings: Keyword arguments of `click.Command`.
        """
        super().__init__(*args, **settings)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section; those of no section come last, as --help does."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        by_name = {name: option for option in options for name in option.opts}
        chosen = [[by_name[name] for name in names] for names in self.sections.values()]
        listed = [option for section in chosen for option in section]
        rest = [option for option in options if option not in listed]
        for heading, section in zip((*self.sections, "Other options"), (*chosen, rest), strict=True):
            with formatter.section(heading):
                formatter.write_dl(
                    [record for option in section if (record := option.get_help_record(ctx)) is not None]
                )
