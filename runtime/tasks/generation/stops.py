"""Find stop strings in a text that grows by tokens, wherever the borders of the tokens lie."""

from collections.abc import Sequence

from internvl_edge.runtime.errors import InputError


def check_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings of a request.

    Raises:
        InputError: one of them is empty, or they are one string instead of a sequence of strings.
    """
    if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
        raise InputError(f"stop: {stops!r}; give a sequence of texts of one character or more")
    return tuple(stops)


def first_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Return where the first stop string at or behind `start` begins, or None.

    The first is the one that ends first, as it would be found if the text came letter by letter; of those that end at
    the same place it is the longest.
    """
    found = [(begin + len(stop), begin) for stop in stops if (begin := text.find(stop, start)) >= 0]
    return min(found)[1] if found else None


def open_letters(text: str, stops: Sequence[str]) -> int:
    """Return the number of letters at the end of `text` that may be the beginning of a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(len(stop) > count and stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
