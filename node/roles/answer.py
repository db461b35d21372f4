"""A job's output at its client: which ids count, their text, and where it is complete."""

from collections.abc import Callable
from typing import Protocol, cast

from node.errors import PeerError
from node.protocol import codec, limits, logprobs
from node.protocol.logprobs import TokenLogprob
from node.protocol.pieces import Item
from node.protocol.statements import Finish
from node.protocol.stops import Output

FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}


class AnyAnswer(Protocol):
    """A job's output as a purchase sees it: ids here, pieces of text in `roles.text_answer`."""

    ids: list[int]
    """What was accepted, in tier ids."""
    logprobs: list[TokenLogprob]
    """One for each id, where they were asked for."""
    text: str
    """What was shown."""

    @property
    def reread(self) -> int:
        """What was accepted, as tokens of the next worker's prompt."""
        ...

    @property
    def output(self) -> bytes:
        """What was accepted, as a disclosure and the prefix of a continuation hold it."""
        ...

    def resume(self) -> None:
        """A worker's part has ended: the next one goes on right after what was accepted."""
        ...

    def read(self, data: bytes) -> tuple[Item, ...]:
        """What a chunk holds that comes right after what was accepted.

        Raises:
            PeerError: It can't be what comes next.
        """
        ...

    def complete_after(self, items: tuple[Item, ...]) -> tuple[int, Finish] | None:
        """How many of what was read complete the output, and how; None if they don't.

        Raises:
            PeerError: They can't be the answer's.
        """
        ...

    def read_logprobs(self, data: bytes, count: int) -> tuple[TokenLogprob, ...]:
        """The log probabilities that came with `count` items.

        Raises:
            PeerError: Nobody asked for them, or they are malformed.
        """
        ...

    def accept(self, items: tuple[Item, ...], told: tuple[TokenLogprob, ...]) -> None:
        """The first of the items last looked at are the answer's next."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class Answer:
    """Grows as ids are accepted.  Only accepted ids are shown, kept and paid for."""

    def __init__(
        self,
        output: Output,
        *,
        on_text: Callable[[str], None],
        vocab: int = 2**32,
        logprobs_asked: int = 0,
    ) -> None:
        """
        Args:
            output: Counts, decodes and finds the end.
            on_text: Given each new piece of text; must be quick.
            vocab: The model's ids are below this.
            logprobs_asked: As in the request: 0 for none, else 1 + the alternatives per token.
        """
        self._output = output
        self._on_text = on_text
        self._vocab = vocab
        self._logprobs_asked = logprobs_asked
        self._pending: list[str] = []
        """Text of ids that arrived and are not yet accepted, one entry each."""
        self._text_bytes = 0
        self._broken = False
        """Ids were looked at that can't be accepted: what is held back is not only the answer's."""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.text = ""

    def resume(self) -> None:
        """A worker's part has ended: the next one goes on right after what was accepted."""
        self._pending.clear()
        if self._broken:
            self._output = self._output.replayed(self.ids)
            self._text_bytes = len(self.text.encode(errors="replace"))
            self._broken = False

    @property
    def reread(self) -> int:
        """What was accepted, as tokens of a prompt."""
        return len(self.ids)

    @property
    def output(self) -> bytes:
        """The accepted ids, packed."""
        return codec.pack_ids(self.ids)

    def read(self, data: bytes) -> tuple[Item, ...]:
        """The ids of a chunk.

        Raises:
            PeerError: They are not whole.
        """
        return codec.unpack_ids(data)

    def complete_after(self, items: tuple[Item, ...]) -> tuple[int, Finish] | None:
        """How many of these next ids complete the output, and how; None if they don't.

        To be asked only about ids that come right after the accepted ones.

        Raises:
            PeerError: They are not of the model, the tokenizer fails on them, or they come to more
                text than a job may have.
        """
        self._pending.clear()
        ids = cast(tuple[int, ...], items)
        if max(ids, default=0) >= self._vocab:
            raise PeerError("an id that is not in the model's vocabulary")
        try:
            for count, token in enumerate(ids, start=1):
                piece = self._output.push(token)
                self._pending.append(self._bounded(piece.text))
                if piece.finish is not None:
                    return count, FINISH[piece.finish]
        except PeerError:
            self._broken = True
            raise
        return None

    def read_logprobs(self, data: bytes, count: int) -> tuple[TokenLogprob, ...]:
        """The log probabilities that came with `count` ids.

        Raises:
            PeerError: Nobody asked for them, or for that many; or they are malformed.
        """
        if data and not self._logprobs_asked:
            raise PeerError("log probabilities that nobody asked for")
        told = logprobs.decode(data, count)
        if any(len(each.top) >= self._logprobs_asked for each in told):
            raise PeerError("more log probabilities than were asked for")
        return told

    def accept(self, items: tuple[Item, ...], told: tuple[TokenLogprob, ...]) -> None:
        """The first of the ids last looked at are the answer's next."""
        self.ids += cast(tuple[int, ...], items)
        self.logprobs += told
        self._show("".join(self._pending[: len(items)]))
        self._pending.clear()

    def close(self) -> None:
        """No more will come: text that was held back for a stop string or a character is shown."""
        if self._broken:
            return
        try:
            self._show(self._bounded(self._output.rest()))
        except PeerError:
            self._broken = True  # the tokenizer has no text for it

    def _bounded(self, text: str) -> str:
        # A tokenizer comes from strangers: a few ids may stand for any amount of text.
        self._text_bytes += len(text.encode(errors="replace"))
        if self._text_bytes > limits.OUTPUT_BYTES_MAX:
            raise PeerError("more text than a job may have")
        return text

    def _show(self, text: str) -> None:
        self.text += text
        if text:
            self._on_text(text)
