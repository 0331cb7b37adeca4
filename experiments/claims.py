"""Published claims, and whether the record of an experiment bears them out."""

from collections.abc import Callable
from typing import NamedTuple

from experiments.records import Record


class Claim(NamedTuple):
    """What somebody published, and what decides here whether it holds.

    ``text`` is the claim in a sentence, ``source`` the key of the bibliography,
    ``criterion`` what a record must show, in words, written down before it was made. ``test``
    takes a record, and returns whether it shows that, and the numbers found, in words.
    """

    text: str
    source: str
    criterion: str
    test: Callable[[Record], tuple[bool, str]]


def verdicts(claims: list[Claim], record: Record) -> str:
    """Return what a record says to claims, in four lines for each."""
    lines = []
    for claim in claims:
        holds, found = claim.test(record)
        lines += [
            f"claim:     {claim.text}",
            f"criterion: {claim.criterion}",
            f"found:     {found}",
            f"verdict:   {'held' if holds else 'did not hold'}",
        ]
    return "\n".join(lines)
