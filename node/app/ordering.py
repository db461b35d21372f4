"""From what somebody asks to the order that the market gets, and to the answer that comes back."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from node.adapters.p2p.identity import address_of_peer_id_text
from node.adapters.text.chat import ChatText, Message
from node.errors import DecodeError, PeerError, UsageError
from node.protocol.chat import NO_TOOLS, Call, Chat, ChatMessage, Toolbox, functions
from node.protocol.embeddings import Inputs, TextPrompt
from node.protocol.fields import ZERO_HASH, Address
from node.protocol.json_depth import is_shallow
from node.protocol.sampling import Sampling
from node.protocol.statements import Tier
from node.protocol.stops import Output
from node.roles.answer import Answer, AnyAnswer
from node.roles.catalog import ClientModel
from node.roles.market import Preferences
from node.roles.order import Order
from node.roles.text_answer import TextAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, whichever way it came in: a conversation, or a prompt to go on with."""

    messages: tuple[ChatMessage, ...] = ()
    prompt: str | tuple[int, ...] = ""
    """Instead of messages: a text, or its ids."""
    inputs: Inputs | None = None
    """Instead of either: texts that are to become vectors."""
    sampling: Sampling
    """Its seed counts only where `seed` is set."""
    max_tokens: int
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    """None: the client draws one after the price is bound."""
    format: str = ""
    """A JSON Schema that the answer has to fit; empty for none."""
    toolbox: Toolbox = NO_TOOLS
    """What the answer may call, as the model knows tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A model as its client reads and counts it."""

    model: ClientModel
    chat: ChatText

    @classmethod
    def of(cls, model: ClientModel) -> "Reader":
        """
        Raises:
            PeerError: A file of the model can't be used.
        """
        return cls(model=model, chat=ChatText.of(model.files))


def order_of(question: Question, reader: Reader, preferences: Preferences) -> Order:
    """Render and count: computes for up to some hundred milliseconds on long texts.

    Raises:
        PeerError: The model's template or tokenizer fails, or the text is too long.
        UsageError: This is nothing that the model's workers could be asked.
    """
    in_text = reader.model.tier is Tier.TEXT
    chat = text_prompt_of(question) if in_text else None
    return Order(
        model=reader.model.id,
        prompt=() if in_text else prompt_ids(question, reader),
        chat=chat,
        chat_tokens=0 if chat is None else chat.tokens(reader.chat.count),
        tokenizer=reader.model.tokenizer if in_text else ZERO_HASH,
        sampling=question.sampling.fields(),
        output_max=question.max_tokens,
        stop=question.stops,
        ignore_eos=question.ignore_eos,
        format=question.format,
        seed=question.seed,
        preferences=preferences,
    )


def prompt_tokens(question: Question, reader: Reader) -> int:
    """What the prompt counts, in the model's tier.

    Raises:
        PeerError, UsageError: As `order_of`.
    """
    if reader.model.tier is Tier.TEXT:
        return text_prompt_of(question).tokens(reader.chat.count)
    return len(prompt_ids(question, reader))


def text_prompt_of(question: Question) -> TextPrompt:
    """What is sent to workers that sell text.

    Raises:
        UsageError: As `chat_of`.
    """
    return chat_of(question) if question.inputs is None else question.inputs


def chat_of(question: Question) -> Chat:
    """The conversation, as it is sent to workers that sell text.

    Raises:
        UsageError: It is none, or has a role that they don't know.
    """
    if not question.messages:
        raise UsageError("this model's workers sell text: they take conversations, no prompts")
    try:
        return Chat(messages=question.messages, toolbox=question.toolbox)
    except DecodeError as error:
        raise UsageError(f"this model's workers sell text: {error}") from error


def prompt_ids(question: Question, reader: Reader) -> tuple[int, ...]:
    """The prompt as the model reads it.

    Raises:
        PeerError: The model's template or tokenizer fails, or the text is too long.
    """
    if question.inputs is not None:
        raise UsageError("this model's workers sell token ids: they make no embeddings")
    if question.messages:
        tools = functions(question.toolbox.tools)
        return reader.chat.render(_for_template(question.messages), tools=tools)
    if isinstance(question.prompt, str):
        return reader.chat.encode(question.prompt, special=True)
    return question.prompt


def _for_template(messages: tuple[ChatMessage, ...]) -> list[Message]:
    """As chat templates have them: arguments as the object that they are, results with a name."""
    names: dict[str, str] = {}
    made: list[Message] = []
    for each in messages:
        message = Message(role=each.role, content=each.content)
        if each.calls:
            message["tool_calls"] = [_template_call(call) for call in each.calls]
            names |= {call.id: call.name for call in each.calls}
        if each.call_id:
            message["tool_call_id"] = each.call_id
            message["name"] = names.get(each.call_id, "")
        made.append(message)
    return made


def _template_call(call: Call) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if arguments is None or not is_shallow(arguments):
        arguments = call.arguments  # it was cut, or is none
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def answer_of(question: Question, reader: Reader, on_text: Callable[[str], None]) -> AnyAnswer:
    """Where a question's output will grow.

    Args:
        question: It.
        reader: Of the model that was chosen.
        on_text: Given each new piece of text; must be quick.
    """
    if reader.model.tier is Tier.TEXT:
        return TextAnswer(count=reader.chat.count, stops=question.stops, on_text=on_text)
    manifest = reader.model.manifest
    output = Output(
        decode=reader.chat.decode,
        eos_ids=manifest.eos_ids,
        stops=question.stops,
        max_tokens=question.max_tokens,
        ignore_eos=question.ignore_eos,
    )
    return Answer(
        output,
        on_text=on_text,
        vocab=manifest.vocab,
        logprobs_asked=question.sampling.fields().logprobs,
    )


def worker_named(text: str) -> Address:
    """A worker's address, from that or from its PeerID.

    Raises:
        UsageError: It is neither.
    """
    if re.fullmatch("0x[0-9a-fA-F]{40}", text):
        return bytes.fromhex(text[2:])
    try:
        return address_of_peer_id_text(text)
    except PeerError as error:
        raise UsageError(f"{text} is neither an address nor a PeerID: {error}") from error
