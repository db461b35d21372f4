"""Finds out what a server can do with a model, by a handful of short completions."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
import trio

from node.adapters.openai import bodies, embeddings, http, replies
from node.adapters.openai.completions import streamed
from node.adapters.openai.http import Server
from node.adapters.openai.replies import CallText, Delta, Surrogates, Usage
from node.adapters.openai.served import Abilities, Ability, Served, Trial
from node.errors import NodeError, Unavailable
from node.protocol import formats
from node.protocol.chat import Chat, ChatMessage, Tool, Toolbox
from node.protocol.sampling import Sampling
from node.protocol.statements import Tier
from node.protocol.tool_calls import CallPart, CallReader

log = structlog.get_logger("openai")

TRIAL_S: Final = 60.0
"""For one trial: a server that has just started may have to load the model first."""
TOKENS: Final = 24
JSON_TOKENS: Final = 512
"""Some models think before the first character of their answer, which ends the trial."""
BEST: Final = Sampling(temperature=0.0)
DRAWN: Final = Sampling(temperature=1.0, seed=7)
QUESTION: Final = Chat(
    messages=(ChatMessage(role="user", content="Count from one to ten in words."),)
)
SCHEMA: Final = {
    "type": "object",
    "properties": {"fits": {"type": "string", "enum": ["amethyst"]}},
    "required": ["fits"],
    "additionalProperties": False,
}
TOOL: Final = Tool(
    name="count",
    description="Counts for you.",
    parameters='{"type":"object","properties":{"to":{"type":"integer"}},"required":["to"],'
    '"additionalProperties":false}',
)
TEXT: Final = "One, two, three, four, five"


@dataclass(slots=True, kw_only=True)
class Completion:
    """What a completion came to."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    with_ids: bool = True
    """Every piece of text came with its ids."""
    prompt_ids: tuple[int, ...] | None = None
    usage: Usage | None = None
    finish: str | None = None
    hidden: bool = False

    def take(self, delta: Delta, surrogates: Surrogates) -> None:
        """Add an event's."""
        self.text += surrogates.push(delta.text)
        self.ids += delta.ids or ()
        self.with_ids = self.with_ids and (delta.ids is not None or not delta.text)
        self.prompt_ids = self.prompt_ids or delta.prompt_ids
        self.usage = delta.usage or self.usage
        self.finish = delta.finish or self.finish
        self.hidden = self.hidden or delta.hidden


async def completed(server: Server, path: str, body: bytes) -> Completion:
    """A whole completion.

    Raises:
        Unavailable: There is none, or it does not end in time.
    """
    whole, surrogates = Completion(), Surrogates()
    try:
        with trio.fail_after(TRIAL_S):
            async with streamed(server, path, body) as deltas:
                async for delta in deltas:
                    whole.take(delta, surrogates)
    except trio.TooSlowError:
        raise Unavailable(f"no completion within {TRIAL_S:g} s") from None
    whole.text += surrogates.rest()
    return whole


async def probe(server: Server, served: Served, *, ids_wanted: bool = True) -> Abilities:
    """Try everything that a tier could rest on.

    Args:
        server: Which.
        served: The model, with the tokenizer that its manifest names.
        ids_wanted: Whether the operator lets it be sold in tier ids.

    Raises:
        Unavailable: The server can't be reached, or does not answer at all.
    """
    prober = _Prober(server, served)
    await prober.run()
    tier, why = _tier(prober, served, ids_wanted)
    log.info("probed", model=served.name, tier=tier.name.lower() if tier else "none", why=why)
    return Abilities(trials=tuple(prober.trials), tier=tier, why=why)


def _tier(prober: "_Prober", served: Served, ids_wanted: bool) -> tuple[Tier | None, str]:
    ids_in, ids_out = prober.said(Ability.IDS_IN), prober.said(Ability.IDS_OUT)
    exact = ids_in.has and ids_out.has
    if exact and served.renders and ids_wanted:
        return Tier.IDS, "token ids go in and come out as they are"
    if prober.said(Ability.EMBEDDINGS).has:
        return Tier.TEXT, "it answers no conversation, and makes embeddings"
    if not prober.said(Ability.CHAT).has:
        return None, f"it answers no conversation: {prober.said(Ability.CHAT).detail}"
    if not ids_wanted:
        return Tier.TEXT, "engine.tier says so"
    if exact:
        return Tier.TEXT, "the model's files have no chat template for clients to render"
    lacks = ids_in if not ids_in.has else ids_out
    return Tier.TEXT, f"no exact token ids: {lacks.detail}"


class _Prober:
    """One run of all trials; later ones use what earlier ones brought."""

    def __init__(self, server: Server, served: Served) -> None:
        self._server = server
        self._served = served
        self._answer: Completion | None = None
        """To the question, by the best tokens."""
        self._by_ids: Completion | None = None
        self._size = 0
        """Dimensions of its embeddings."""
        self._prompt = tuple(served.encode(TEXT))
        self.trials: list[Trial] = []

    def said(self, ability: Ability) -> Trial:
        """What was found of an ability."""
        return next(trial for trial in self.trials if trial.ability is ability)

    async def run(self) -> None:
        """Make all trials.

        Raises:
            Unavailable: Nothing of it was answered.
        """
        trials: tuple[tuple[Ability, Callable[[], Awaitable[str | None]]], ...] = (
            (Ability.CHAT, self._chat),
            (Ability.USAGE, self._usage),
            (Ability.IDS_IN, self._ids_in),
            (Ability.IDS_OUT, self._ids_out),
            (Ability.PROMPT_IDS, self._prompt_ids),
            (Ability.CONTINUES, self._continues),
            (Ability.SEED, self._seed),
            (Ability.LOGPROBS, self._logprobs),
            (Ability.ECHO, self._echo),
            (Ability.TOP_K, lambda: self._takes(replace(BEST, top_k=40))),
            (Ability.REPETITION, lambda: self._takes(replace(BEST, repetition=1.1))),
            (Ability.IGNORE_EOS, lambda: self._takes(BEST, ignore_eos=True)),
            (Ability.JSON_OBJECT, self._json_object),
            (Ability.JSON_SCHEMA, self._json_schema),
            (Ability.TOOLS, self._tools),
            (Ability.EMBEDDINGS, self._embeddings),
            (Ability.DIMENSIONS, self._dimensions),
        )
        unreachable: Unavailable | None = None
        for ability, trial in trials:
            try:
                lacks = await trial()
            except http.Refusal as error:
                lacks = str(error)
            except Unavailable as error:
                lacks, unreachable = str(error), unreachable or error
            except NodeError as error:
                lacks = str(error)
            self.trials.append(Trial(ability=ability, has=lacks is None, detail=lacks or ""))
        answered = self._answer or self._by_ids or self._size
        if not answered and unreachable is not None:
            raise unreachable

    async def _ask(self, sampling: Sampling, *, prefix: str = "") -> Completion:
        body = bodies.chat(
            self._served.name, QUESTION, prefix=prefix, max_tokens=TOKENS, sampling=sampling
        )
        return await completed(self._server, bodies.CHAT, body)

    async def _complete(self, ids: tuple[int, ...]) -> Completion:
        body = bodies.completion(self._served.name, ids, max_tokens=TOKENS, sampling=BEST)
        return await completed(self._server, bodies.COMPLETIONS, body)

    # Each says what is lacking, or None.

    async def _chat(self) -> str | None:
        self._answer = await self._ask(BEST)
        if self._answer.finish is None:
            return "its streams end without a reason"
        # A model that thinks first may not come to its answer within the few tokens of a trial.
        return None if self._answer.text or self._answer.hidden else "no text"

    async def _usage(self) -> str | None:
        return None if self._answer is not None and self._answer.usage else "no usage in streams"

    async def _ids_in(self) -> str | None:
        self._by_ids = await self._complete(self._prompt)
        usage, told = self._by_ids.usage, self._by_ids.prompt_ids
        if told is not None and told != self._prompt:
            return "it reads other ids than it is sent"
        if usage is not None and usage.prompt != len(self._prompt):
            return f"it counts {usage.prompt} ids where {len(self._prompt)} were sent"
        if usage is None and told is None:
            return "it does not tell how many it read"
        return None

    async def _ids_out(self) -> str | None:
        made = self._by_ids
        if made is None:
            return "it takes none"
        if not made.ids or not made.with_ids:
            return "it tells none"
        if any(token >= self._served.manifest.vocab for token in made.ids):
            return "ids that the manifest's model does not have"
        if self._served.decode(made.ids).strip() != made.text.strip():
            return "its ids are not its text by the manifest's tokenizer"
        if made.usage is not None and not 0 <= made.usage.completion - len(made.ids) <= 1:
            return f"{len(made.ids)} ids where it counted {made.usage.completion}"
        return None

    async def _prompt_ids(self) -> str | None:
        if self._by_ids is not None and self._by_ids.prompt_ids is not None:
            return None
        counted = any(made is not None and made.usage for made in (self._by_ids, self._answer))
        return "it tells their number only" if counted else "it does not even tell their number"

    async def _continues(self) -> str | None:
        if self.said(Ability.IDS_IN).has and self.said(Ability.IDS_OUT).has:
            return None  # the prefix is ids behind the prompt's
        whole = self._answer.text if self._answer is not None else ""
        half = whole[: len(whole) // 2].rstrip()
        if len(whole) - len(half) < 8 or not half:
            return "its answer is too short to tell"
        rest = (await self._ask(BEST, prefix=half)).text
        wanted = whole[len(half) :]
        return None if rest and rest[:8] == wanted[:8] else "it begins anew"

    async def _seed(self) -> str | None:
        first, second = await self._ask(DRAWN), await self._ask(DRAWN)
        return None if first.text == second.text else "two answers under one seed differ"

    async def _logprobs(self) -> str | None:
        document = await self._plain(
            bodies.CHAT,
            {"messages": [{"role": "user", "content": TEXT}], "logprobs": True, "top_logprobs": 1},
        )
        return None if replies.read(document).logprobs else "none in its answer"

    async def _echo(self) -> str | None:
        document = await self._plain(bodies.COMPLETIONS, {"prompt": TEXT, "echo": True})
        return None if replies.read(document).text.startswith(TEXT) else "the prompt is not in it"

    async def _takes(self, sampling: Sampling, *, ignore_eos: bool = False) -> str | None:
        """Whether a parameter that is not OpenAI's is refused, on the route that jobs will take."""
        name = self._served.name
        if self.said(Ability.IDS_IN).has:
            body = bodies.completion(
                name, self._prompt, max_tokens=2, sampling=sampling, ignore_eos=ignore_eos
            )
            await completed(self._server, bodies.COMPLETIONS, body)
            return None
        body = bodies.chat(name, QUESTION, max_tokens=2, sampling=sampling, ignore_eos=ignore_eos)
        await completed(self._server, bodies.CHAT, body)
        return None

    async def _json_object(self) -> str | None:
        """An answer to a question that asks for no JSON begins with a bracket only if it must."""
        body = bodies.chat(
            self._served.name,
            QUESTION,
            max_tokens=JSON_TOKENS,
            sampling=BEST,
            format=formats.ANY_OBJECT,
        )
        with trio.move_on_after(TRIAL_S):
            async with streamed(self._server, bodies.CHAT, body) as deltas:
                async for delta in deltas:
                    if start := delta.text.lstrip():
                        return None if start[0] == "{" else "its answer is no JSON"
        return "no text"

    async def _json_schema(self) -> str | None:
        """An answer that fits a schema by chance would have to be this one word."""
        body = bodies.chat(
            self._served.name,
            QUESTION,
            max_tokens=JSON_TOKENS,
            sampling=BEST,
            format=formats.written(SCHEMA),
        )
        answer = (await completed(self._server, bodies.CHAT, body)).text
        try:
            return None if json.loads(answer) == {"fits": "amethyst"} else "its answer does not fit"
        except (ValueError, RecursionError):
            return "its answer is no JSON"

    async def _tools(self) -> str | None:
        """A call that has to be made; one that the model may leave would show nothing."""
        asked = Chat(messages=QUESTION.messages, toolbox=Toolbox(tools=(TOOL,), required=True))
        body = bodies.chat(self._served.name, asked, max_tokens=JSON_TOKENS, sampling=BEST)
        said, text = CallText(), ""
        with trio.move_on_after(TRIAL_S):
            async with streamed(self._server, bodies.CHAT, body) as deltas:
                async for delta in deltas:
                    text += said.push(delta)
        reader = CallReader()
        parts = [*reader.push(text + said.rest()), *reader.end()]
        named = [part.name for part in parts if isinstance(part, CallPart) and part.name]
        return None if named[:1] == [TOOL.name] else "no call in its answer"

    async def _embeddings(self) -> str | None:
        if self.said(Ability.CHAT).has or self.said(Ability.IDS_OUT).has:
            return "not tried: it writes text, and is sold for that"
        self._size = await embeddings.dimensions(self._server, self._served)
        return None

    async def _dimensions(self) -> str | None:
        if not self._size:
            return "it makes none"
        half = max(1, self._size // 2)
        await embeddings.dimensions(self._server, self._served, wanted=half)
        return None

    async def _plain(self, path: str, fields: dict[str, object]) -> dict[str, object]:
        """A completion in one piece, of two tokens."""
        body = {"model": self._served.name, "max_tokens": 2, "temperature": 0, **fields}
        data = json.dumps(body).encode()
        async with http.sent(self._server, "POST", path, data, within_s=TRIAL_S) as response:
            return replies.read_json(await response.whole(within_s=TRIAL_S))
