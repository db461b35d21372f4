"""How text is counted in tier text (protocol.md, "Counting text").

Tokenizers merge: what a text counts may fall when more is appended.  So text is cut first, by a
rule that looks at its characters alone, and each piece is counted by itself.  Counts then add up
however the text was sent, and a count that was given never changes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node.errors import DecodeError
from node.protocol import chain_hash, codec, limits
from node.protocol.chain_hash import TextChain
from node.protocol.fields import Hash

WHITE: Final = "\t\n\r "
"""What separates words; no other character does, whatever Unicode calls it."""
PIECES_PER_CHUNK_MAX: Final = limits.DATA_BYTES_MAX // (4 * limits.PIECE_CHARS_MAX)
_RUN: Final = re.compile(f"[{WHITE}]+[^{WHITE}]*|[^{WHITE}]+")

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""How many ids a tokenizer has for each of some texts, without what it puts around a text.  Such a
function raises PeerError if the tokenizer fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """A piece of visible text, and what it counts."""

    data: bytes
    """UTF-8."""
    tokens: int


Item = int | TextPiece
"""What output consists of: token ids in tier ids, pieces in tier text."""


def cut(text: str) -> list[str]:
    """The pieces of a text: a word with the white space before it, 16 characters at most."""
    size = limits.PIECE_CHARS_MAX
    return [run[at : at + size] for run in _RUN.findall(text) for at in range(0, len(run), size)]


def counted(pieces: Sequence[str], count: CountTokens) -> tuple[TextPiece, ...]:
    """Pieces with what they count: at least one token, and at most one per byte.

    The bounds are there because the tokenizer may be a stranger's.

    Raises:
        PeerError: The tokenizer fails.
    """
    if not pieces:
        return ()
    data = [piece.encode() for piece in pieces]
    found = count(pieces)
    return tuple(
        TextPiece(data=each, tokens=min(max(1, tokens), len(each)))
        for each, tokens in zip(data, found, strict=True)
    )


def text_of(data: bytes) -> str:
    """Text as it came from a peer.

    Raises:
        DecodeError: Not UTF-8: also where a character is cut in two.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DecodeError("text that is not UTF-8, or ends within a character") from None


def may_follow(last: str, text: str) -> bool:
    """Whether a piece ends where it does if this text comes after it; at the start it may."""
    return not last or cut(last + text)[0] == last


class Cutter:
    """Cuts a text that comes bit by bit; a piece is given once nothing can be added to it."""

    def __init__(self) -> None:
        self._open = ""

    def push(self, text: str) -> list[str]:
        """Pieces that are complete now."""
        *complete, self._open = cut(self._open + text) or [""]
        if len(self._open) == limits.PIECE_CHARS_MAX:
            complete.append(self._open)
            self._open = ""
        return complete

    def rest(self) -> list[str]:
        """The last piece, if there is one: the text has ended."""
        last, self._open = self._open, ""
        return [last] if last else []


def tokens_of(items: Iterable[Item]) -> int:
    """How many tokens output is."""
    return sum(item.tokens if isinstance(item, TextPiece) else 1 for item in items)


def fitting(items: Sequence[Item], room: int) -> int:
    """How many of the next items there is room for, in tokens."""
    if not items or not isinstance(items[0], TextPiece):
        return min(len(items), room)
    for number, item in enumerate(items):
        room -= tokens_of((item,))
        if room < 0:
            return number
    return len(items)


def packed(items: Sequence[Item]) -> bytes:
    """Output as chunks and disclosures carry it: ids as big-endian u32, or text as UTF-8."""
    ids = tuple(item for item in items if isinstance(item, int))
    return codec.pack_ids(ids) + b"".join(
        item.data for item in items if isinstance(item, TextPiece)
    )


def grown(
    head: Hash, text: TextChain | None, items: Sequence[Item]
) -> tuple[Hash, TextChain | None]:
    """The chain hash after more output; `text` is the chain itself, in tier text."""
    if text is None:
        return chain_hash.extend(head, (item for item in items if isinstance(item, int))), None
    text = text.after(packed(items))
    return text.head, text
