"""The owner's own server (`[gateway] upstream`): the last resort of an answer.

It is asked only where no worker is left.  What it gives is on the market's account in no way: no
statement is signed for it, and it costs the deposit nothing.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from node.adapters.openai import bodies, completions
from node.adapters.openai.http import Refusal, Server
from node.adapters.openai.replies import CallText, Surrogates, Usage
from node.app.engines import read_key
from node.app.ordering import Question, chat_of
from node.config import Config
from node.errors import NodeError, Unavailable
from node.protocol.stops import StopMatcher
from node.protocol.tool_calls import CallReader, Part

Finish = Literal["stop", "length", "tool_calls"]
FINISHES: Final[Mapping[str, Finish]] = {
    "stop": "stop",
    "eos": "stop",
    "tool_calls": "stop",
    "length": "length",
}
SEED_BITS: Final = 31


class UpstreamFailed(Exception):
    """In a few words that have nothing of a prompt in them."""


@dataclass(slots=True, kw_only=True)
class Share:
    """What the server has given of one answer."""

    finish: Finish | None = None
    """None: it ended early."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Which server, and how it is asked."""

    server: Server
    names: Mapping[str, str] = field(default_factory=dict)
    """Its names of models of the market, in lower case."""
    other: str | None = ""
    """Its name for models that are not among them: empty: the same; None: they are not asked."""
    continues: bool = False
    """It goes on with a conversation's answer that has begun."""

    @classmethod
    def of(cls, config: Config) -> "Upstream | None":
        """The configured one.

        Raises:
            ConfigError: A setting can't be used.
        """
        settings = config.gateway
        if not settings.upstream:
            return None
        pairs = [each.partition("=") for each in settings.upstream_models]
        others = [name.strip() for name, equals, _ in pairs if not equals]
        return cls(
            server=Server.at(
                settings.upstream,
                key=read_key(config.home, settings.upstream_key_file),
                setting="gateway.upstream",
            ),
            names={model.strip().casefold(): name.strip() for model, eq, name in pairs if eq},
            other=others[-1] if others else None if pairs else "",
            continues=settings.upstream_continues,
        )

    def name_of(self, models: tuple[str, ...]) -> str | None:
        """What it calls the first of these models that it may be asked for; None: none of them."""
        for model in models:
            name = self.names.get(model.casefold(), self.other)
            if name is not None:
                return name or model
        return None

    def can(self, question: Question, *, begun: bool) -> bool:
        """Whether it can be asked this: logprobs and token ids are a matter of the market's models.

        Args:
            question: What was asked.
            begun: Text was delivered, to be gone on with.
        """
        if question.sampling.logprobs is not None:
            return False
        if question.messages:
            # Where a format or a call is forced, servers force it anew from where they go on.
            forced = question.format or question.toolbox.tools
            return not begun or (self.continues and not forced)
        return isinstance(question.prompt, str)

    async def answer(
        self,
        question: Question,
        name: str,
        *,
        begun: str,
        max_tokens: int,
        on_parts: Callable[[tuple[Part, ...]], None],
        part: Share,
    ) -> None:
        """Answer, or go on after what was delivered.

        Args:
            question: What was asked.
            name: The server's name of the model.
            begun: The answer so far.
            max_tokens: Most of what is left.
            on_parts: Given more of the text or of calls; stop strings are no part of it.
            part: What is known of the server's part, also if it fails.

        Raises:
            UpstreamFailed: It did not bring the answer to its end.
        """
        seed = secrets.randbits(SEED_BITS) if question.seed is None else question.seed
        sampling = replace(question.sampling, seed=seed)
        try:
            if question.messages:
                path = bodies.CHAT
                body = bodies.chat(
                    name,
                    chat_of(question),
                    prefix=begun,
                    max_tokens=max_tokens,
                    sampling=sampling,
                    ignore_eos=question.ignore_eos,
                    format=question.format,
                )
            else:
                assert isinstance(question.prompt, str)
                path = bodies.COMPLETIONS
                body = bodies.text_completion(
                    name,
                    question.prompt + begun,
                    max_tokens=max_tokens,
                    sampling=sampling,
                    ignore_eos=question.ignore_eos,
                )
            cut = _Cut(question.stops, begun)
            if not question.toolbox.tools:
                await self._read(path, body, cut, None, lambda text: on_parts((text,)), part)
                return
            said, read = CallText(), CallReader()
            await self._read(path, body, cut, said, lambda text: on_parts(read.push(text)), part)
            on_parts(read.end())
            if read.calls and part.finish == "stop":
                part.finish = "tool_calls"
        except Refusal as error:
            raise UpstreamFailed(f"answered {error.status}") from error
        except NodeError as error:
            # What a server says of an error may have the prompt in it.
            raise UpstreamFailed("can't be reached, or broke off") from error

    async def _read(
        self,
        path: str,
        body: bytes,
        cut: "_Cut",
        calls: CallText | None,
        on_text: Callable[[str], None],
        part: Share,
    ) -> None:
        whole = Surrogates()
        async with completions.streamed(self.server, path, body) as deltas:
            async for delta in deltas:
                part.usage = delta.usage or part.usage
                text = cut.push(whole.push(calls.push(delta) if calls else delta.text))
                if text:
                    on_text(text)
                if cut.ended:
                    part.finish = "stop"
                    return
                if delta.finish is not None:
                    part.finish = FINISHES.get(delta.finish)
        if part.finish is None:
            raise Unavailable("it did not end as an answer ends")
        ended = calls.rest() if calls and part.finish == "stop" else ""
        rest = cut.push(whole.push(ended) + whole.rest()) + cut.rest()
        if rest:
            on_text(rest)


class _Cut:
    """Ends a text before a stop string, which may begin in what was delivered before."""

    def __init__(self, stops: tuple[str, ...], begun: str) -> None:
        self._matcher = StopMatcher(stops)
        longest = max(map(len, stops), default=1)
        tail = begun[max(0, len(begun) - longest + 1) :]
        self._shown = len(tail) - len(self._matcher.push(tail)[0])
        """Characters that the matcher holds back and that were delivered already."""
        self.ended = False
        """A stop string was found."""

    def push(self, text: str) -> str:
        """What is to be delivered now."""
        if self.ended:
            return ""
        visible, stop = self._matcher.push(text)
        self.ended = stop is not None
        return self._fresh(visible)

    def rest(self) -> str:
        """What was held back and is no stop string after all."""
        return "" if self.ended else self._fresh(self._matcher.flush())

    def _fresh(self, visible: str) -> str:
        shown = min(self._shown, len(visible))
        self._shown -= shown
        return visible[shown:]
