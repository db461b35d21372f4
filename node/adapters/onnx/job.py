"""One job in the engine: what is left to read, what was written, and how the next id is drawn."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from node.adapters.onnx.decoder import Cache
from node.errors import PeerError
from node.protocol.drawing import History, best, choose, log_softmax
from node.protocol.logprobs import TokenLogprob
from node.protocol.manifest import Manifest
from node.protocol.stops import Decode, FinishReason, Output
from node.roles.generation import GenerationRequest


class Made(NamedTuple):
    """One token of one job, on its way to the reader."""

    token: int
    logprob: TokenLogprob | None
    finish: FinishReason | None
    stop: str | None


class Grammar(Protocol):
    """Which ids a format lets follow."""

    def allowed(self) -> NDArray[np.int64]:
        """Ids that may come next, ascending, at least one.

        Raises:
            Unavailable: Finding out would take too long, or there is none.
        """
        ...

    def push(self, token: int) -> None:
        """The next id: one of those allowed.

        Raises:
            Unavailable: Finding out would take too long.
        """
        ...


class Job:
    """State of one job.  The loop's thread owns it, but for `taken`."""

    def __init__(
        self,
        request: GenerationRequest,
        manifest: Manifest,
        decode: Decode,
        grammar: Grammar | None = None,
    ) -> None:
        """
        Args:
            request: What is asked.
            manifest: Of the model.
            decode: Ids to text, for stop strings.
            grammar: Of the request's format, after its prefix.

        Raises:
            PeerError: Ids outside the vocabulary, a prompt that is empty or too long, or a prefix
                that has ended already.
        """
        self.request = request
        self.before = before = request.prompt_ids + request.prefix_ids
        """What is read first."""
        room = manifest.context - len(before)
        limit = min(request.max_tokens, room)
        if not request.prompt_ids or limit < 1:
            raise PeerError(f"a prompt of {len(before)} tokens; the context is {manifest.context}")
        if not all(0 <= token < manifest.vocab for token in before):
            raise PeerError("a token id outside the vocabulary")
        self.unread = list(before)
        """Ids to compute before the next one can be drawn."""
        self.tokens_cached = 0
        """Of the ids before, how many were taken from an earlier job's."""
        self.cache: Cache | None = None
        """What was computed, while the job is in no batch."""
        self.written: list[int] = []
        """Ids that went out."""
        self.taken = 0
        """Ids that the reader took: written by the reader's thread only."""
        self.paused = False
        """Waits for its reader: written by the loop's thread only."""
        self._grammar = grammar
        self._output = Output(
            decode=decode if request.stop else None,
            eos_ids=manifest.eos_ids,
            stops=request.stop,
            max_tokens=len(request.prefix_ids) + limit,
            ignore_eos=request.ignore_eos,
        )
        if any(self._output.push(token).finish for token in request.prefix_ids):
            raise PeerError("a prefix that has ended already")
        wanted = request.sampling.penalises
        self._history = History(request.prompt_ids, request.prefix_ids) if wanted else None

    @property
    def made(self) -> int:
        """How many ids went out."""
        return len(self.written)

    def draw(self, logits: NDArray[Any]) -> Made:
        """The next id from a row of logits; it becomes what is to be read next.

        Raises:
            PeerError: The tokenizer fails on it.
            Unavailable: The grammar fails.
        """
        sampling = self.request.sampling
        token = choose(
            logits,
            sampling=sampling,
            position=self._output.count,
            history=self._history,
            allowed=None if self._grammar is None else self._grammar.allowed(),
        )
        if self._history is not None:
            self._history.push(token)
        piece = self._output.push(token)
        if self._grammar is not None and piece.finish is None:
            self._grammar.push(token)
        self.unread = [token]
        self.written.append(token)
        return Made(
            token=token,
            logprob=None
            if sampling.logprobs is None
            else _logprob(logits, token, sampling.logprobs),
            finish=piece.finish,
            stop=piece.stop,
        )


def _logprob(logits: NDArray[Any], token: int, count: int) -> TokenLogprob:
    every = log_softmax(logits)
    # As float32 already, so that what a reader sees is what the wire carries.
    top = tuple((other, float(np.float32(value))) for other, value in best(every, count))
    return TokenLogprob(chosen=float(np.float32(every[token])), top=top)
