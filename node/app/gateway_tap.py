"""From a job under way to whoever reads its answer at the gateway."""

import structlog

from node.adapters.http.port import Sink, Started, TokenText
from node.adapters.text.chat import ChatText
from node.errors import PeerError
from node.protocol.auction_record import AuctionRecord
from node.protocol.logprobs import TokenLogprob
from node.protocol.signing import checksum
from node.protocol.statements import Lock
from node.protocol.tool_calls import CallReader, Part
from node.roles.answer import AnyAnswer
from node.roles.market import Candidate
from node.roles.order import Order

log = structlog.get_logger("gateway")


class Tap:
    """From the answer to the sink: text, calls, and log probabilities of the tokens behind them."""

    def __init__(
        self, sink: Sink, chat: ChatText, order: Order, calls: CallReader | None = None
    ) -> None:
        """
        Args:
            sink: Where the answer grows.
            chat: Names tokens.
            order: What was asked for.
            calls: Reads calls in the text; None where there are none to be read.
        """
        self._sink = sink
        self._chat = chat
        self._calls = calls
        self._asked = order.sampling.logprobs > 0
        self._told = 0
        self.answer: AnyAnswer | None = None

    def text(self, piece: str) -> None:
        """The answer has grown."""
        if self._calls is None:
            self._sink.write(piece, self._tokens())
        else:
            self._write(self._calls.push(piece))

    def rest(self) -> None:
        """The answer is over: what was held back, and tokens without a text, are told."""
        if self._calls is not None:
            self._write(self._calls.end())
            return
        tokens = self._tokens()
        if tokens:
            self._sink.write("", tokens)

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool."""
        return self._calls is not None and self._calls.calls > 0

    def _write(self, parts: tuple[Part, ...]) -> None:
        tokens = self._tokens()
        for part in parts:
            if isinstance(part, str):
                self._sink.write(part, tokens)
                tokens = ()
            else:
                self._sink.call(part)
        if tokens:
            self._sink.write("", tokens)

    def _tokens(self) -> tuple[TokenText, ...]:
        answer = self.answer
        if not self._asked or answer is None or len(answer.logprobs) != len(answer.ids):
            return ()
        start, self._told = self._told, len(answer.ids)
        fresh = zip(answer.ids[start:], answer.logprobs[start:], strict=True)
        return tuple(self._token(token, told) for token, told in fresh)

    def _token(self, token: int, told: TokenLogprob) -> TokenText:
        top = tuple((self._name(each), value) for each, value in told.top)
        return TokenText(text=self._name(token), logprob=told.chosen, top=top)

    def _name(self, token: int) -> str:
        try:
            return self._chat.token(token)
        except PeerError:
            return ""  # the tokenizer has none for it


class Watcher:
    """Tells the sink who has the job (`job_run.Watcher`)."""

    def __init__(self, sink: Sink, job_id: str, model: str) -> None:
        self._sink = sink
        self._job_id = job_id
        self._model = model

    def market(self, event: object) -> None:
        """Nobody watches the auction."""

    def awarded(
        self,
        candidate: Candidate,
        record: AuctionRecord,  # noqa: ARG002
    ) -> None:
        """A worker was chosen."""
        provider = checksum(candidate.session.peer)
        self._sink.started(Started(job_id=self._job_id, model=self._model, provider=provider))

    def refused(self, candidate: Candidate, refusal: object) -> None:
        """Another is looked for."""

    def failed(self, candidate: Candidate, why: str) -> None:
        """Another is looked for."""
        log.info("worker failed", worker=checksum(candidate.session.peer), reason=why)

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        """Another is asked as well."""

    def stopped(self, candidate: Candidate, why: str) -> None:
        """Another goes on with the answer."""
        log.info("worker stopped", worker=checksum(candidate.session.peer), reason=why)

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        """It is waited for."""
