"""Where an output ends, and its text so far: worker and client run this over the same ids.

Ids go in one at a time, so that both sides see a stop string at the same token.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

FinishReason = Literal["stop", "length"]
"""`stop`: an end token or a stop string.  `length`: the limit, or the context is full."""

Decode = Callable[[Sequence[int]], str]
"""Text of some ids, special tokens left out."""

INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"
HELD_IDS_MAX: Final = 8
"""Ids that may wait for the rest of a character (UTF-8 has at most four bytes), then they show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one id adds."""

    text: str = ""
    """Visible text that is certain now: never part of a stop string."""
    finish: FinishReason | None = None
    """Set if this id is the last one that counts."""
    stop: str | None = None
    """The stop string that was found."""


_COUNTED: Final = Piece()


class TextStream:
    """Text of ids as they come; a character is given when it is whole."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = 0
        """How many of `_ids` have been given as text: they are context for the next."""

    def push(self, token: int) -> str:
        """What the id adds to the text, with what waited before it."""
        self._ids.append(token)
        text = self._fresh()
        if text.endswith(INCOMPLETE) and len(self._ids) - self._known < HELD_IDS_MAX:
            return ""
        self._settle()
        return text

    def flush(self) -> str:
        """What still waits, as it is."""
        text = self._fresh() if self._known < len(self._ids) else ""
        self._settle()
        return text

    def _fresh(self) -> str:
        # The text of one id may depend on those before it (spaces), so both are decoded with the
        # last known ids in front.
        before = self._decode(self._ids[: self._known]) if self._known else ""
        return self._decode(self._ids)[len(before) :]

    def _settle(self) -> None:
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)


class StopMatcher:
    """Finds stop strings in a text that comes in pieces, and holds back what may become one."""

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that is certain, and the stop string that was found, which is not part of it."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda pair: pair[0])
            self._held = ""
            return text[:at], stop
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def flush(self) -> str:
        """What was held back and is no stop string after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)


class Output:
    """The output of one job: counts ids, gives text, says where it ends.

    Without `decode` there is no text and no stop string, only counting.
    """

    def __init__(
        self,
        *,
        decode: Decode | None,
        eos_ids: Iterable[int],
        stops: Collection[str] = (),
        max_tokens: int,
        ignore_eos: bool = False,
    ) -> None:
        """
        Args:
            decode: Ids to text; needed if there are stop strings.
            eos_ids: The model's end tokens.
            stops: Strings that end the output.
            max_tokens: Most ids of the whole job that count.
            ignore_eos: Go on after an end token.
        """
        if stops and decode is None:
            raise ValueError("stop strings need text")
        self._decode = decode
        self._text = TextStream(decode) if decode else None
        self._stops = tuple(stops)
        self._matcher = StopMatcher(stops)
        self._eos = frozenset() if ignore_eos else frozenset(eos_ids)
        self._max_tokens = max_tokens
        self.count = 0
        """Ids that count so far, an end token among them."""
        self.finish: FinishReason | None = None
        """Set once the output has ended: later ids are not owed."""

    def push(self, token: int) -> Piece:
        """Take the next id.

        Raises:
            ValueError: The output has ended.
        """
        if self.finish:
            raise ValueError("the output has ended")
        self.count += 1
        if token in self._eos:
            return self._end("stop", self._rest())
        if self._text is None:  # an engine counts a great many ids, and nothing else
            return _COUNTED if self.count < self._max_tokens else self._end("length", "")
        text, stop = self._matcher.push(self._text.push(token))
        if stop is not None:
            self.finish = "stop"
            return Piece(text=text, finish="stop", stop=stop)
        if self.count >= self._max_tokens:
            return self._end("length", text + self._rest())
        return Piece(text=text)

    def rest(self) -> str:
        """Text that is held back, for an output that was cut off from outside."""
        return self._rest()

    def replayed(self, ids: Iterable[int]) -> "Output":
        """The same output with these ids alone, where others were pushed that don't count."""
        again = Output(
            decode=self._decode,
            eos_ids=self._eos,
            stops=self._stops,
            max_tokens=self._max_tokens,
        )
        for token in ids:
            again.push(token)
        return again

    def _end(self, finish: FinishReason, text: str) -> Piece:
        # An unfinished character, or half a stop string, is text after all.
        self.finish = finish
        return Piece(text=text, finish=finish)

    def _rest(self) -> str:
        last = self._text.flush() if self._text else ""
        return self._matcher.flush() + last
