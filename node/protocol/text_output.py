"""A worker's visible text in tier text: cut, counted, and ended at a stop string."""

from collections.abc import Collection

from node.protocol.pieces import CountTokens, Cutter, TextPiece, counted
from node.protocol.stops import StopMatcher


class TextOutput:
    """Turns what a backend writes into pieces; what may become a stop string waits."""

    def __init__(self, *, count: CountTokens, stops: Collection[str] = ()) -> None:
        """
        Args:
            count: The counting tokenizer.
            stops: Strings that end the output; they are not part of it.
        """
        self._count = count
        self._matcher = StopMatcher(stops)
        self._cutter = Cutter()
        self.ended = False
        """A stop string was found: nothing after it is visible."""

    def push(self, text: str) -> tuple[TextPiece, ...]:
        """Pieces that are complete now.

        Raises:
            PeerError: The tokenizer fails.
        """
        if self.ended:
            return ()
        visible, stop = self._matcher.push(text)
        complete = self._cutter.push(visible)
        if stop is not None:
            self.ended = True
            complete += self._cutter.rest()
        return counted(complete, self._count)

    def close(self) -> tuple[TextPiece, ...]:
        """The backend has ended: what waited is text after all.

        Raises:
            PeerError: The tokenizer fails.
        """
        if self.ended:
            return ()
        complete = self._cutter.push(self._matcher.flush()) + self._cutter.rest()
        return counted(complete, self._count)
