"""Rows of words and numbers as lines of equal columns."""

from collections.abc import Sequence


def aligned(rows: Sequence[tuple[str, ...]], words: int) -> list[str]:
    """Return the rows as lines: the first `words` columns to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
