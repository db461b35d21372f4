"""A job's output at its client in tier text: checked, cut and counted as its worker must."""

from collections.abc import Callable
from typing import cast

from node.errors import PeerError
from node.protocol import chat, limits, pieces
from node.protocol.logprobs import TokenLogprob
from node.protocol.pieces import CountTokens, Item, TextPiece
from node.protocol.statements import Finish


class TextAnswer:
    """`answer.AnyAnswer` of text.  All of it is visible, so all of it is shown as it comes."""

    def __init__(
        self,
        *,
        count: CountTokens,
        stops: tuple[str, ...] = (),
        on_text: Callable[[str], None],
    ) -> None:
        """
        Args:
            count: The tokenizer that the terms name.
            stops: Strings that end the output, and that it must not have.
            on_text: Given each new piece of text; must be quick.
        """
        self._count = count
        self._stops = tuple(filter(None, stops))
        self._on_text = on_text
        self._data = bytearray()
        self._last = ""
        """The last accepted piece: what follows must not belong to it."""
        self.ids: list[int] = []
        """None: there are no ids in this tier."""
        self.logprobs: list[TokenLogprob] = []
        self.text = ""

    @property
    def reread(self) -> int:
        """What was accepted, counted from its start as the next worker counts it."""
        return chat.text_tokens(self.text, self._count)

    @property
    def output(self) -> bytes:
        """The accepted text, UTF-8."""
        return bytes(self._data)

    def resume(self) -> None:
        """In a continuation pieces begin anew."""
        self._last = ""

    def read(self, data: bytes) -> tuple[Item, ...]:
        """The pieces of a chunk.

        Raises:
            PeerError: Not UTF-8, not cut where text is cut, or the tokenizer fails.
        """
        text = pieces.text_of(data)
        if text and not pieces.may_follow(self._last, text):
            raise PeerError("text that was cut within a piece")
        if len(self._data) + len(data) > limits.OUTPUT_BYTES_MAX:
            raise PeerError("more text than a job may have")
        return pieces.counted(pieces.cut(text), self._count)

    def complete_after(self, items: tuple[Item, ...]) -> tuple[int, Finish] | None:
        """Always None: where the backend ends is seen by the worker alone.

        Raises:
            PeerError: A stop string is in the text.
        """
        fresh = pieces.packed(items).decode()
        known = max((len(stop) for stop in self._stops), default=1) - 1
        text = self.text[max(0, len(self.text) - known) :] + fresh
        if any(stop in text for stop in self._stops):
            raise PeerError("text with a stop string")
        return None

    def read_logprobs(self, data: bytes, _count: int) -> tuple[TokenLogprob, ...]:
        """Nothing: there are none in this tier.

        Raises:
            PeerError: There are some.
        """
        if data:
            raise PeerError("log probabilities that nobody asked for")
        return ()

    def accept(self, items: tuple[Item, ...], _told: tuple[TokenLogprob, ...]) -> None:
        """The first of the pieces last looked at are the answer's next."""
        accepted = cast(tuple[TextPiece, ...], items)
        data = pieces.packed(accepted)
        self._data += data
        self._last = accepted[-1].data.decode()
        text = data.decode()
        self.text += text
        self._on_text(text)

    def close(self) -> None:
        """Nothing waits."""
