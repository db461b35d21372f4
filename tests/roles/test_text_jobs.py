"""Jobs of tier text: both sides count what is seen, and only that is paid."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from devnet import misbehave
from devnet.misbehave import Cheat
from node.app.figures import finish_of
from node.errors import NoPeers, UsageError
from node.protocol import codec, pieces, signing
from node.protocol.chain_hash import TextChain
from node.protocol.chat import NO_TOOLS, Call, Chat, ChatMessage, Tool, Toolbox
from node.protocol.embeddings import TOKENS_MAX, Inputs
from node.protocol.formats import ANY_OBJECT
from node.protocol.frames import (
    Chunk,
    CutoffFrame,
    Frame,
    ProgressFrame,
    ReceiptFrame,
    Refusal,
    Refused,
)
from node.protocol.manifest import FileRole, ModelFile
from node.protocol.statements import Cutoff, CutoffReason, Finish, Skill, Tier
from node.protocol.stops import FinishReason
from node.protocol.transcript import read_disclosure
from node.protocol.transcript_verify import verify
from node.roles.client import Outcome
from node.roles.generation import EngineLoad, EngineModel, EngineRates, GenerationRequest, TokenStep
from node.roles.order import Order
from node.roles.text_answer import TextAnswer
from node.units import cost_micro
from tests.roles.fakes import DOMAIN
from tests.roles.job_world import PLAIN, Watch, World, order, world
from tests.roles.market_world import MANIFEST
from tests.roles.rogues import RogueClient, request_body

TOKENIZER = b"t" * 32
TEXT_MANIFEST = replace(
    MANIFEST,
    files=(ModelFile(path="tokenizer.json", role=FileRole.TOKENIZER, sha256=TOKENIZER, size=1),),
)
PARTS = ("Hel", "lo, wor", "ld! It", " costs", " what is", " seen.")
WHOLE = "".join(PARTS)
CHAT = Chat(messages=(ChatMessage(role="user", content="Say something nice"),))


def count(texts: Sequence[str]) -> list[int]:
    """Half a token per character, as if letters merged."""
    return [(len(text) + 1) // 2 for text in texts]


def tokens(text: str) -> int:
    return pieces.tokens_of(pieces.counted(pieces.cut(text), count))


class TextEngine:
    """`generation.Engine` of tier text that writes the same parts for everybody."""

    def __init__(
        self,
        parts: Sequence[str] = PARTS,
        *,
        finish_of_last: FinishReason = "stop",
        **changes: Any,
    ) -> None:
        rates = EngineRates(
            prefill_tps=2000.0, decode_tps=100.0, decode_batch_tps=150.0, first_token_ms=10.0
        )
        self.sold: EngineModel | None = EngineModel(
            manifest=TEXT_MANIFEST,
            context=2048,
            slots=4,
            rates=rates,
            exact=False,
            continues=False,
            tier=Tier.TEXT,
            tokenizer=TOKENIZER,
            count=count,
        )
        self.sold = replace(self.sold, **changes)
        self.parts = parts
        self.finish = finish_of_last
        self.requests: list[GenerationRequest] = []

    def models(self) -> tuple[EngineModel, ...]:
        return (self.sold,) if self.sold is not None else ()

    def load(self) -> EngineLoad:
        return EngineLoad(active=0, slots=4, queued=0, queue_max=16)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[TokenStep]]:
        self.requests.append(request)
        yield self._steps()

    async def _steps(self) -> AsyncIterator[TokenStep]:
        for part in self.parts:
            await trio.sleep(0.01)
            yield TokenStep(text=part)
        yield TokenStep(finish=self.finish)


def text_order(**changes: Any) -> Order:
    plain = order(
        model=TEXT_MANIFEST.model_id,
        prompt=(),
        chat=CHAT,
        chat_tokens=CHAT.tokens(count),
        tokenizer=TOKENIZER,
    )
    return replace(plain, **changes)


async def bought(
    this: World, engine: TextEngine, *, cheat: str = "", **changes: Any
) -> tuple[Outcome, TextAnswer, Watch]:
    await this.sell(1, engine=engine, cheat=cheat)
    client = await this.buy()
    the_order, watch = text_order(**changes), Watch()
    reply = TextAnswer(count=count, stops=the_order.stop, on_text=lambda _: None)
    with trio.fail_after(120):
        return await client.run(the_order, reply, watch), reply, watch


async def test_text_is_bought_counted_and_paid() -> None:
    async with world() as this:
        engine = TextEngine()
        outcome, reply, _ = await bought(this, engine)
        job = outcome.attempt.job
        assert reply.text == WHOLE
        assert job.receipt is not None
        assert job.receipt.finish == job.complete == Finish.STOP
        assert job.receipt.tokens_out == tokens(WHOLE)
        assert job.accepted_micro == CHAT.tokens(count) + 5 * tokens(WHOLE)
        assert engine.requests[0].chat == CHAT


async def test_the_transcript_and_its_disclosure_verify() -> None:
    async with world() as this:
        outcome, _, _ = await bought(this, TextEngine())
    report = verify(outcome.transcript, disclosure=outcome.disclosure, domain=DOMAIN)
    assert [check for check in report.checks if not check.passed] == []
    assert read_disclosure(outcome.disclosure).output.decode() == WHOLE


async def test_a_stop_string_is_not_seen_and_not_paid() -> None:
    async with world() as this:
        outcome, reply, _ = await bought(this, TextEngine(), stop=("It co",))
        assert reply.text == "Hello, world! "
        receipt = outcome.attempt.job.receipt
        assert receipt is not None
        assert (receipt.finish, receipt.tokens_out) == (Finish.STOP, tokens("Hello, world! "))


async def test_a_piece_that_has_no_room_is_not_sent() -> None:
    async with world() as this:
        room = tokens("Hello, world!") + 1
        outcome, reply, _ = await bought(this, TextEngine(), output_max=room)
        assert reply.text == "Hello, world!"
        receipt = outcome.attempt.job.receipt
        assert receipt is not None
        assert (receipt.finish, receipt.tokens_out) == (Finish.LENGTH, room - 1)
        assert outcome.attempt.job.complete == Finish.LENGTH


async def test_a_backend_at_its_limit_ends_with_length() -> None:
    async with world() as this:
        outcome, reply, _ = await bought(this, TextEngine(finish_of_last="length"))
        job = outcome.attempt.job
        assert reply.text == WHOLE
        assert job.receipt is not None
        assert job.receipt.finish == job.complete == Finish.LENGTH


@pytest.mark.parametrize("room", [100, 8])
async def test_why_it_ended_is_the_workers_word(room: int) -> None:
    async with world() as this:
        outcome, reply, _ = await bought(this, TextEngine(), output_max=room)
    whole = reply.text == WHOLE
    assert whole == (room == 100)
    assert outcome.attempt.job.complete is (Finish.STOP if whole else Finish.LENGTH)
    assert finish_of(outcome) == ("stop" if whole else "length")


async def test_the_cap_ends_a_text_too() -> None:
    """Also where the backend ended before the client's pay had come."""
    async with world() as this:
        await this.sell(1, engine=TextEngine(parts=("word " * 60,)), quantum_micro=100)
        client = await this.buy()
        reply = TextAnswer(count=count, on_text=lambda _: None)
        outcome = await client.run(text_order(output_max=100), reply, Watch())
        receipt = outcome.attempt.job.receipt
        assert receipt is not None
        assert receipt.finish == Finish.LENGTH
        assert 95 < receipt.tokens_out <= 100


async def test_terms_that_count_otherwise_are_passed_over() -> None:
    async with world() as this:
        with pytest.raises(NoPeers):
            await bought(this, TextEngine(), tokenizer=b"u" * 32)


CALLING = Chat(
    messages=(
        *CHAT.messages,
        ChatMessage(role="assistant", content="", calls=(Call(id="1", name="f", arguments="{}"),)),
        ChatMessage(role="tool", content="five", call_id="1"),
    ),
    toolbox=Toolbox(tools=(Tool(name="f", description="Counts."),), required=True),
)


@pytest.mark.parametrize("asked", [CALLING, replace(CALLING, toolbox=NO_TOOLS)])
async def test_tools_and_calls_go_to_workers_that_offer_them(asked: Chat) -> None:
    changes: Any = {"chat": asked, "chat_tokens": asked.tokens(count)}
    async with world() as this:
        with pytest.raises(NoPeers, match="tools"):
            await bought(this, TextEngine(skills=Skill.JSON | Skill.SCHEMA), **changes)
    async with world() as this:
        engine = TextEngine(skills=Skill.TOOLS)
        outcome, reply, _ = await bought(this, engine, **changes)
        assert engine.requests[0].chat == asked
        assert reply.text == WHOLE
        assert outcome.tokens_in == asked.tokens(count)


async def test_a_format_goes_to_workers_that_offer_it() -> None:
    async with world() as this:
        with pytest.raises(NoPeers, match="schema"):
            await bought(this, TextEngine(skills=Skill.JSON), format='{"type":"string"}')
    async with world() as this:
        engine = TextEngine(skills=Skill.JSON)
        outcome, _, _ = await bought(this, engine, format=ANY_OBJECT)
        assert engine.requests[0].format == ANY_OBJECT
        report = verify(outcome.transcript, disclosure=outcome.disclosure, domain=DOMAIN)
        assert report.passed


VECTORS = "AACAPwAAAEA=\nAABAQAAAgEA="
INPUTS = Inputs(texts=("Say something nice", "or nothing"))
EMBEDDED: dict[str, Any] = {
    "chat": INPUTS, "chat_tokens": INPUTS.tokens(count), "output_max": INPUTS.output_max,
}  # fmt: skip
MAKES_VECTORS: dict[str, Any] = {"skills": Skill.EMBEDDINGS, "context": TOKENS_MAX}


async def test_embeddings_go_to_workers_that_make_them_and_are_paid_by_their_inputs() -> None:
    async with world() as this:
        with pytest.raises(NoPeers, match="embeddings"):
            await bought(this, TextEngine(context=TOKENS_MAX), **EMBEDDED)
    async with world() as this:
        engine = TextEngine((VECTORS[:12], VECTORS[12:]), **MAKES_VECTORS)
        outcome, reply, _ = await bought(this, engine, **EMBEDDED)
        assert engine.requests[0].chat == INPUTS
        assert reply.text == VECTORS
        terms = outcome.attempt.job.terms
        assert terms.price_out == 0 < terms.price_in
        price = cost_micro(
            tokens_in=INPUTS.tokens(count), tokens_cached=0, tokens_out=0,
            price_in=terms.price_in, price_cached=0, price_out=0,
        )  # fmt: skip
        assert outcome.amount_micro == price > 0
        assert outcome.tokens_out == tokens(VECTORS)
        report = verify(outcome.transcript, disclosure=outcome.disclosure, domain=DOMAIN)
        assert report.passed


async def test_a_conversation_is_not_for_workers_that_make_embeddings() -> None:
    async with world() as this:
        with pytest.raises(NoPeers, match="embeddings"):
            await bought(this, TextEngine(**MAKES_VECTORS))
    sized = EMBEDDED | {"chat": replace(INPUTS, dimensions=2)}
    async with world() as this:
        with pytest.raises(NoPeers, match="dimensions"):
            await bought(this, TextEngine(**MAKES_VECTORS), **sized)


async def test_log_probabilities_are_not_asked_for() -> None:
    async with world() as this:
        sampling = replace(text_order().sampling, logprobs=1)
        with pytest.raises(UsageError):
            await bought(this, TextEngine(), sampling=sampling)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"x",
        lambda data: data[:-1],
        lambda data: data + b"\xff",
        lambda data: data[:2],
        lambda data: b"",
    ],
)
async def test_a_worker_that_sends_other_text_than_it_bills_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    def spoil(cheat: Cheat, frame: Frame) -> Sequence[Frame]:
        second = isinstance(frame, Chunk) and frame.position > 0 and cheat.chunks < 10
        if not second:
            return [frame]
        cheat.chunks = 10
        assert isinstance(frame, Chunk)
        return [replace(frame, data=change(frame.data))]

    monkeypatch.setattr(misbehave, "KINDS", {**misbehave.KINDS, "spoil": spoil})
    async with world() as this:
        outcome, reply, _ = await bought(this, TextEngine(), cheat="spoil")
        cut = outcome.attempt.evidence.cutoff
        assert cut is not None
        assert cut.statement.reason in (
            CutoffReason.BAD_DATA,
            CutoffReason.BAD_STATEMENT,
            CutoffReason.OVERBILLED,
        )
        paid = outcome.attempt.job.accepted_micro
        assert paid <= CHAT.tokens(count) + 5 * tokens(reply.text)


def text_body(**changes: Any) -> bytes:
    return request_body(**{"prompt": CHAT.encode(), "ignore_eos": False, **changes})


@asynccontextmanager
async def joined(engine: TextEngine, **settings: Any) -> AsyncIterator[RogueClient]:
    async with world() as this:
        await this.sell(1, engine=engine, **settings)
        yield await RogueClient.join(this, model=TEXT_MANIFEST.model_id)


@pytest.mark.parametrize(
    "body",
    [
        text_body(prompt=b"{}"),
        text_body(prompt=CHAT.encode() + b" "),
        text_body(prompt=CHAT.encode().replace(b"user", b"tool")),
        text_body(prompt=codec.pack_ids((1, 2, 3))),
        text_body(format=ANY_OBJECT),
        text_body(prompt=replace(CHAT, toolbox=Toolbox(tools=(Tool(name="f"),))).encode()),
        text_body(prompt=CHAT.encode().replace(b"nice", b"nice and long")),
        text_body(prefix=b"text that nobody wrote"),
        text_body(sampling=replace(PLAIN, logprobs=1)),
        text_body(sampling=replace(PLAIN, temperature=11_000_000)),
    ],
)
async def test_a_request_that_is_not_what_was_awarded_ends_the_session(
    body: bytes,
) -> None:
    engine = TextEngine()
    async with joined(engine) as rogue:
        job = await rogue.open(request=body, tokens_in=CHAT.tokens(count))
        await job.send_request()
        await rogue.session.wait_lost()
    assert engine.requests == []


async def test_a_cutoff_within_a_piece_ends_the_session() -> None:
    async with joined(TextEngine(parts=("word " * 400,)), quantum_micro=50) as rogue:
        job = await rogue.open(request=text_body(), tokens_in=CHAT.tokens(count))
        await job.send_request()
        await job.until(ProgressFrame)
        at = pieces.cut(job.data.decode())[0]
        assert tokens(at) == 2
        cutoff = Cutoff(award=job.digest, position=1, chain=bytes(32), reason=1)
        await job.channel.send(CutoffFrame(job=job.award.job, cutoff=rogue.sign(cutoff)))
        await rogue.session.wait_lost()


async def test_a_cutoff_between_pieces_is_taken() -> None:
    async with joined(TextEngine(parts=("word " * 400,)), quantum_micro=50) as rogue:
        job = await rogue.open(request=text_body(), tokens_in=CHAT.tokens(count))
        await job.send_request()
        await job.until(ProgressFrame)
        award = job.award
        chain = TextChain(award.client, award.job, b"word").head
        cutoff = Cutoff(award=job.digest, position=2, chain=chain, reason=1)
        await job.channel.send(CutoffFrame(job=award.job, cutoff=rogue.sign(cutoff)))
        receipt = (await job.until(ReceiptFrame)).receipt.statement
        assert (receipt.finish, receipt.tokens_out, receipt.chain) == (Finish.CUTOFF, 2, chain)


async def test_who_would_begin_anew_refuses_to_go_on() -> None:
    async with joined(TextEngine()) as rogue:
        job = await rogue.open(request=text_body(prefix=b"Hello,"), position=3)
        assert (await job.until(Refusal)).code == Refused.NO_CONTINUATION


async def test_who_can_goes_on_after_the_prefix() -> None:
    engine = TextEngine(parts=(" world!",), continues=True)
    async with joined(engine) as rogue:
        body = text_body(prefix=b"Hello,")
        job = rogue.jobs + 1
        client = signing.address_of_key(rogue.key)
        chain = TextChain(client, job.to_bytes(16, "big"), b"Hello,")
        there = await rogue.open(
            request=body,
            position=3,
            chain=chain.head,
            tokens_in=CHAT.tokens(count) + tokens("Hello,"),
        )
        await there.send_request()
        receipt = (await there.until(ReceiptFrame)).receipt.statement
        assert receipt.chain == chain.after(b" world!").head
        assert receipt.tokens_out == tokens(" world!")
    assert engine.requests[0].prefix_text == "Hello,"


async def test_an_award_on_a_model_that_has_left_is_refused() -> None:
    engine = TextEngine()
    async with joined(engine) as rogue:
        engine.sold = None
        job = await rogue.open(request=text_body(), tokens_in=CHAT.tokens(count))
        assert (await job.until(Refusal)).code == Refused.MODEL_UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        text_body(),
        text_body(prompt=replace(INPUTS, dimensions=4).encode()),
        text_body(prompt=INPUTS.encode(), stop=("A",)),
        text_body(prompt=Inputs(texts=("Say something longer than that",)).encode()),
    ],
)
async def test_a_worker_of_embeddings_takes_nothing_else(body: bytes) -> None:
    engine = TextEngine((VECTORS,), **MAKES_VECTORS)
    async with joined(engine) as rogue:
        job = await rogue.open(request=body, tokens_in=INPUTS.tokens(count))
        await job.send_request()
        await rogue.session.wait_lost()
    assert not engine.requests
