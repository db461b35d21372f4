"""A job as its client wants it done, and what is sent to a worker for it."""

from dataclasses import dataclass

import structlog

from node.errors import PeerError, SessionLost, UsageError
from node.protocol import codec, formats, limits
from node.protocol.embeddings import TextPrompt, skills_of
from node.protocol.fields import ZERO_HASH, Hash
from node.protocol.frames import AwardFrame, Request, RequestData, SamplingFields
from node.protocol.sampling import Sampling
from node.protocol.scoring import Need, Preferences
from node.protocol.statements import Terms, Tier
from node.roles.ports import Channel
from node.units import cost_micro

log = structlog.get_logger("client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job as the client wants it done, rendered and counted."""

    model: Hash
    prompt: tuple[int, ...] = ()
    """Ids, in tier ids."""
    chat: TextPrompt | None = None
    """Instead of ids, in tier text."""
    chat_tokens: int = 0
    """What that counts."""
    tokenizer: Hash = ZERO_HASH
    """sha256 of the file that counted it: only terms that name it will do."""
    sampling: SamplingFields
    output_max: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    format: str = ""
    """A JSON Schema that the output has to fit (`protocol.formats`); empty for none."""
    seed: int | None = None
    """None: drawn by the client, after the price is bound."""
    scope: bytes = b""
    """What workers keep of the prompt serves orders of the same scope alone."""
    preferences: Preferences

    def need(self, position: int = 0, reread: int = 0) -> Need:
        """What workers are told before one is chosen.

        Args:
            position: Output tokens that the job has already: not to be written again.
            reread: What they count as a part of the prompt.
        """
        return Need(
            model=self.model,
            tier=self.tier,
            tokenizer=self.tokenizer,
            skills=self.skills,
            tokens_in=self.tokens_in + reread,
            output_max=self.output_max - position,
        )

    @property
    def tier(self) -> Tier:
        """What goes to the worker, and comes back."""
        return Tier.IDS if self.chat is None else Tier.TEXT

    @property
    def skills(self) -> int:
        """What its worker must be able to do: bits of `Skill`."""
        needed = formats.skill_of(self.format)
        return needed if self.chat is None else needed | skills_of(self.chat)

    @property
    def tokens_in(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt) if self.chat is None else self.chat_tokens

    def check(self) -> None:
        """Find out before any worker does that this is no request.

        Raises:
            UsageError: Something has no place in a request.
        """
        if self.chat is not None and self.sampling.logprobs:
            raise UsageError("this model's workers tell no log probabilities: they sell text")
        try:
            formats.check(self.format, ignore_eos=self.ignore_eos)
            request = codec.decode_request(self.request(bytes(32)))
            Sampling.of(request.sampling, seed=0)
        except PeerError as error:
            raise UsageError(f"the job can't be asked for: {error}") from error

    def cost_micro(self, terms: Terms, position: int = 0, reread: int = 0) -> int:
        """Most that the job, or what follows `position`, can cost on these terms, in micro."""
        need = self.need(position, reread)
        return cost_micro(
            tokens_in=need.tokens_in,
            tokens_cached=0,
            tokens_out=need.output_max,
            price_in=max(terms.price_in, terms.price_cached),
            price_cached=0,
            price_out=terms.price_out,
        )

    def request(self, salt: bytes, prefix: bytes = b"") -> bytes:
        """The body that the worker gets; 32 random bytes keep its hash from telling anything.

        Args:
            salt: The random bytes.
            prefix: Output that the job has already: the worker goes on after it.
        """
        return codec.encode(
            Request(
                salt=salt,
                prompt=codec.pack_ids(self.prompt) if self.chat is None else self.chat.encode(),
                prefix=prefix,
                sampling=self.sampling,
                stop=self.stop,
                ignore_eos=self.ignore_eos,
                format=self.format,
                scope=self.scope,
            )
        )


async def send_order(channel: Channel, frame: AwardFrame, request: bytes) -> None:
    """Send an award and the request behind it, at the pace at which the worker reads."""
    try:
        await channel.send(frame)
        for offset in range(0, len(request), limits.DATA_BYTES_MAX):
            data = request[offset : offset + limits.DATA_BYTES_MAX]
            await channel.send(RequestData(job=channel.job, offset=offset, data=data))
    except SessionLost as error:
        log.info("order not delivered", reason=str(error))  # the purchase hears of it as well
