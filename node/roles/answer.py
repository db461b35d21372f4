"""A job's output at its client: which ids count, their text, and where it is complete."""

from collections.abc import Callable

from node.protocol.logprobs import TokenLogprob
from node.protocol.statements import Finish
from node.protocol.stops import Output

FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}


class Answer:
    """Grows as ids are accepted.  Only accepted ids are shown, kept and paid for."""

    def __init__(self, output: Output, *, on_text: Callable[[str], None]) -> None:
        """
        Args:
            output: Counts, decodes and finds the end.
            on_text: Given each new piece of text; must be quick.
        """
        self._output = output
        self._on_text = on_text
        self._pending: list[str] = []
        """Text of ids that arrived and are not yet accepted, one entry each."""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.text = ""

    def complete_after(self, ids: tuple[int, ...]) -> tuple[int, Finish] | None:
        """How many of these next ids complete the output, and how; None if they don't."""
        self._pending.clear()
        for count, token in enumerate(ids, start=1):
            piece = self._output.push(token)
            self._pending.append(piece.text)
            if piece.finish is not None:
                return count, FINISH[piece.finish]
        return None

    def accept(self, ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        """The first of the ids last looked at are the answer's next."""
        self.ids += ids
        self.logprobs += logprobs
        self._show("".join(self._pending[: len(ids)]))
        self._pending.clear()

    def close(self) -> None:
        """No more will come: text that was held back for a stop string or a character is shown."""
        self._show(self._output.rest())

    def _show(self, text: str) -> None:
        self.text += text
        if text:
            self._on_text(text)
