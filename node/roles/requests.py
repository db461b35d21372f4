"""What an engine is asked for, once a request is found to be what was awarded."""

from dataclasses import dataclass

from node.errors import PeerError
from node.protocol import chain_hash, chat, codec, embeddings, formats, pieces
from node.protocol.chain_hash import TextChain
from node.protocol.embeddings import Inputs, TextPrompt
from node.protocol.frames import Request
from node.protocol.job_worker import WorkerJob
from node.protocol.objections import named
from node.protocol.pieces import CountTokens
from node.protocol.sampling import Sampling
from node.protocol.statements import Skill
from node.roles.generation import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A request that may be run."""

    generation: GenerationRequest
    text: TextChain | None = None
    """In tier text: the chain after the request's prefix."""


def in_ids(job: WorkerJob, request: Request) -> Checked:
    """A request of tier ids.  Reads its format: for a long one, call it in a thread.

    Raises:
        PeerError: It is not what was awarded.
    """
    award = job.award
    prompt, prefix = codec.unpack_ids(request.prompt), codec.unpack_ids(request.prefix)
    if len(prompt) + len(prefix) != award.tokens_in or len(prefix) != award.position:
        raise PeerError("a request of another length than the award says")
    _check_format(job, request)
    head = chain_hash.extend(chain_hash.start(award.client, award.job), prefix)
    if head != award.chain:
        raise PeerError("a prefix that does not lead to the award's chain hash")
    generation = GenerationRequest(
        model=job.terms.model,
        prompt_ids=prompt,
        prefix_ids=prefix,
        max_tokens=award.output_max,
        sampling=Sampling.of(request.sampling, seed=award.seed),
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        format=request.format,
        owner=award.client + request.scope,
    )
    return Checked(generation=generation)


def in_text(job: WorkerJob, request: Request, count: CountTokens) -> Checked:
    """A request of tier text.  Counts it: for a long one, call it in a thread.

    Raises:
        PeerError: It is not what was awarded, or the tokenizer fails.
    """
    award = job.award
    asked, prefix = embeddings.decode(request.prompt), pieces.text_of(request.prefix)
    _check_format(job, request)
    _check_prompt(job, asked, request)
    chain = TextChain(award.client, award.job, request.prefix)
    if chain.head != award.chain or bool(prefix) != bool(award.position):
        raise PeerError("a prefix that does not lead to the award's chain hash")
    if request.sampling.logprobs:
        raise PeerError("log probabilities of text were asked for")
    if prompt_tokens(asked, prefix, count, at_most=award.tokens_in) != award.tokens_in:
        raise PeerError("a request of another length than the award says")
    generation = GenerationRequest(
        model=job.terms.model,
        chat=asked,
        prefix_text=prefix,
        max_tokens=award.output_max,
        sampling=Sampling.of(request.sampling, seed=award.seed),
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        format=request.format,
        owner=award.client + request.scope,
    )
    return Checked(generation=generation, text=chain)


def _check_prompt(job: WorkerJob, asked: TextPrompt, request: Request) -> None:
    if missing := embeddings.skills_of(asked) & ~job.terms.skills:
        raise PeerError(f"{named(missing)} that the terms do not offer")
    if not isinstance(asked, Inputs):
        if job.terms.skills & Skill.EMBEDDINGS:
            raise PeerError("a conversation, and the terms offer embeddings")
    elif request.prefix or request.stop or request.format:
        raise PeerError("vectors are neither gone on with, stopped nor given a format")


def _check_format(job: WorkerJob, request: Request) -> None:
    formats.check(request.format, ignore_eos=request.ignore_eos)
    if formats.skill_of(request.format) & ~job.terms.skills:
        raise PeerError("a format that the terms do not offer")


def prompt_tokens(
    asked: TextPrompt, prefix: str, count: CountTokens, *, at_most: int = 2**32 - 1
) -> int:
    """`tokens_in` of an award in tier text; counting ends soon after `at_most` is passed.

    Raises:
        PeerError: The tokenizer fails.
    """
    total = asked.tokens(count, at_most=at_most)
    return total if total > at_most else total + chat.text_tokens(prefix, count)
