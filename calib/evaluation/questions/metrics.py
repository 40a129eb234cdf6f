"""Score a generated answer against the accepted ones: exact match, VQA accuracy and ANLS, each from 0 to 1."""

import re
from collections.abc import Sequence

_ENOUGH = 3
"""Number of people who must have given an answer for it to count as wholly right, in VQA's evaluation."""
_ANLS_LEAST = 0.5
"""Smallest similarity that counts; below it an answer is wrong, not badly spelled."""
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_FINAL_PERIOD = re.compile(r"\.(?!\d)")
_CONTRACTIONS = (
    "ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't hadn't've hasn't haven't he'd"
    " he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've"
    " needn't not've o'clock oughtn't 'ow's'at shan't she'd've shouldn't shouldn't've should've somebody'd've"
    " somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll"
    " that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've"
    " weren't we've what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's"
    " who've why'll why're why's won't wouldn't wouldn't've would've y'all y'all'd've y'all'll you'd you'd've you'll"
    " you're you've"
)
_REPAIRED = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTIONS.split()
    for index, letter in enumerate(word)
    if letter == "'"
}
"""Contractions with one apostrophe left out -> as they are written."""


def exact_match(found: str, expected: Sequence[str]) -> float:
    """Return 1 if the answer equals an expected one but for white space at the ends, else 0."""
    return float(found.strip() in [text.strip() for text in expected])


def vqa_accuracy(found: str, expected: Sequence[str]) -> float:
    """Return the accuracy of VQA's evaluation: an answer that three people gave is right.

    It is the mean of ``min(1, matches / 3)`` over all ways to leave out one of the expected answers, of which VQA has
    ten. With fewer than four expected answers one match is enough. Both sides are normalised by `normalised`.
    """
    answer, others = normalised(found), [normalised(text) for text in expected]
    matches = others.count(answer)
    if len(others) <= _ENOUGH:
        return float(matches > 0)
    left = [matches - (other == answer) for other in others]
    return sum(min(1.0, count / _ENOUGH) for count in left) / len(left)


def anls(found: str, expected: Sequence[str]) -> float:
    """Return the normalised Levenshtein similarity to the nearest expected answer, and 0 where it is below a half.

    Case does not count, nor does the amount of white space.
    """
    answer = _folded(found)
    similarity = max((_similarity(answer, _folded(text)) for text in expected), default=0.0)
    return similarity if similarity >= _ANLS_LEAST else 0.0


def normalised(text: str) -> str:
    """Return an answer as VQA's evaluation compares it.

    That is without case, articles and punctuation, with digits for the numbers up to ten, and with the apostrophes of
    contractions. A mark of punctuation between two letters counts as a space, one beside a space as nothing.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    joined = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        joined = joined.replace(mark, "" if beside_space else " ")
    words = [_NUMBERS.get(word, word) for word in _FINAL_PERIOD.sub("", joined).split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def edit_distance(a: str, b: str) -> int:
    """Return the least number of letters to insert, delete or replace that makes `a` of `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    shortest, longest = sorted((len(a), len(b)))
    if not longest:
        return 1.0
    if shortest / longest < _ANLS_LEAST:  # each letter that only one has is a step; long texts take long
        return 0.0
    return 1.0 - edit_distance(a, b) / longest
