"""Strangers' text on a terminal must not move its cursor, set its title or fill the clipboard."""

from typing import Final

_CONTROLS: Final = {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}
_DROP: Final = dict.fromkeys(_CONTROLS)


def harmless(text: str) -> str:
    """Text without control characters; lines and tabs stay."""
    return text.translate(_DROP)


def one_line(text: str) -> str:
    """The same in one line, for messages."""
    return harmless(text).replace("\n", " ")
