"""Calls of tools in a text: how they are written, and how they are read while the text grows.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Bern"}}
    </tool_call>

So Hermes models and those after them write calls (protocol.md, "Tools"); or the whole text is one
such object, where a format made it so.
"""

import json
import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
HEAD: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL
)
CONTENT_HEAD: Final = re.compile(r'\s*\{\s*"content"\s*:\s*"')
"""Of an answer that a format lets the model choose instead of a call."""
HEAD_CHARS_MAX: Final = 1024
"""A head is looked for within so many characters, and no further."""
MARKS: Final = re.compile(r'["\\{}\[\]]')
STRING_MARK: Final = re.compile(r'["\\]')
HIGH_HALF: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
LOW_HALF: Final = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
ESCAPE: Final = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[^u])")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPart:
    """A part of a call: its beginning, with the tool's name, or more of its arguments."""

    index: int
    """Which of the answer's calls."""
    name: str = ""
    """In the first part only."""
    arguments: str = ""
    """JSON, as the model writes it; a whole object once the call has ended."""

    def __len__(self) -> int:
        return len(self.name) + len(self.arguments)

    def and_then(self, more: "CallPart") -> "CallPart":
        """With more of the same call behind it."""
        return replace(self, arguments=self.arguments + more.arguments)


Part = str | CallPart
"""Text of the answer, or a part of a call."""


def opened(name: str) -> str:
    """What stands before the arguments of a call."""
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": '


CLOSED: Final = f"}}\n{CLOSE}"
"""What stands behind them."""


def written(name: str, arguments: str) -> str:
    """A whole call."""
    return opened(name) + arguments + CLOSED


class _State(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    CONTENT = auto()
    DONE = auto()


class CallReader:
    """Tells the calls of one answer from its text, as far as it has come."""

    def __init__(self, *, whole: bool = False) -> None:
        """
        Args:
            whole: The text is one call or one `{"content": …}`, and nothing else.
        """
        self._whole = whole
        self._state = _State.HEAD if whole else _State.TEXT
        self._buffer = ""
        """What is not told yet."""
        self._gap = ""
        """White space before the mark that was read last."""
        self._looked = 0
        """Characters of the buffer in which the end was looked for."""
        self._depth = 0
        self._in_string = self._escaped = False
        self.calls = 0
        """Calls that have begun."""

    def push(self, text: str) -> tuple[Part, ...]:
        """What more of the text adds."""
        self._buffer += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return tuple(parts)

    def end(self) -> tuple[Part, ...]:
        """What was held back, once no more text comes."""
        parts: list[Part] = []
        rest, self._buffer = self._buffer, ""
        if self._state is _State.TEXT:
            self._tell(rest if not self.calls else rest.rstrip(), parts)
        elif self._state is _State.HEAD:
            self._object(rest, parts)
        elif self._state is _State.CONTENT and rest:
            self._tell("\N{REPLACEMENT CHARACTER}", parts)
        self._state = _State.DONE
        return tuple(parts)

    def _step(self, parts: list[Part]) -> bool:
        """Read on in the buffer; whether there is more to be read in another state."""
        match self._state:
            case _State.TEXT:
                return self._text(parts)
            case _State.HEAD:
                return self._head(parts)
            case _State.ARGUMENTS:
                return self._arguments(parts)
            case _State.CONTENT:
                return self._content(parts)
            case _State.TAIL:
                return self._tail()
            case _State.DONE:
                self._buffer = ""
                return False

    def _text(self, parts: list[Part]) -> bool:
        at = self._buffer.find(OPEN)
        if at >= 0:
            before = self._buffer[:at]
            self._tell(before.rstrip(), parts)
            self._gap = before[len(before.rstrip()) :]
            self._buffer, self._looked = self._buffer[at + len(OPEN) :], 0
            self._state = _State.HEAD
            return True
        # White space before a call is no part of the answer, nor is the start of its mark.
        held = next((n for n in range(len(OPEN) - 1, 0, -1) if self._buffer.endswith(OPEN[:n])), 0)
        shown = self._buffer[: len(self._buffer) - held].rstrip()
        self._buffer = self._buffer[len(shown) :]
        self._tell(shown, parts)
        return False

    def _head(self, parts: list[Part]) -> bool:
        start = self._buffer[:HEAD_CHARS_MAX]
        if found := HEAD.match(start):
            name = _decoded(found[1])
            if isinstance(name, str) and name:
                parts.append(CallPart(index=self.calls, name=name))
                self.calls += 1
                self._depth, self._in_string, self._escaped = 0, False, False
                self._buffer, self._state = self._buffer[found.end() :], _State.ARGUMENTS
                return True
        if self._whole:
            if found := CONTENT_HEAD.match(start):
                self._buffer, self._state = self._buffer[found.end() :], _State.CONTENT
                return True
            return False
        # No head as it should be: the object is read once it is whole.
        at = self._buffer.find(CLOSE, max(0, self._looked - len(CLOSE)))
        self._looked = len(self._buffer)
        if at < 0:
            return False
        inner, self._buffer = self._buffer[:at], self._buffer[at + len(CLOSE) :]
        self._object(inner, parts, close=CLOSE)
        self._state = _State.TEXT
        return True

    def _arguments(self, parts: list[Part]) -> bool:
        end = self._end_of_object()
        told, self._buffer = self._buffer[:end], self._buffer[end:]
        if told:
            parts.append(CallPart(index=self.calls - 1, arguments=told))
        if self._depth:
            return False
        self._state = _State.DONE if self._whole else _State.TAIL
        return True

    def _end_of_object(self) -> int:
        """Characters of the buffer that belong to the object; its depth is 0 where it ends."""
        at = 0
        if self._escaped and self._buffer:
            self._escaped, at = False, 1
        for mark in MARKS.finditer(self._buffer, at):
            if mark.start() < at:
                continue
            match mark[0]:
                case "\\" if self._in_string:
                    at = mark.end() + 1
                    self._escaped = at > len(self._buffer)
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
                    if not self._depth:
                        return mark.end()
        return len(self._buffer)

    def _content(self, parts: list[Part]) -> bool:
        """More of a JSON string; an escape that is not whole waits."""
        shown: list[str] = []
        at = 0
        while found := STRING_MARK.search(self._buffer, at):
            shown.append(self._buffer[at : found.start()])
            at = found.start()
            if found[0] == '"':
                self._state = _State.DONE
                break
            code = self._escape(at)
            if code is None:
                break
            shown.append(_unescaped(code))
            at += len(code)
        else:
            shown.append(self._buffer[at:])
            at = len(self._buffer)
        self._buffer = self._buffer[at:]
        self._tell("".join(shown), parts)
        return self._state is _State.DONE

    def _escape(self, at: int) -> str | None:
        """The escape there, or two that are halves of one character; None if it is not whole."""
        first = ESCAPE.match(self._buffer, at)
        if first is None or not HIGH_HALF.fullmatch(first[0]):
            return None if first is None else first[0]
        rest = self._buffer[first.end() : first.end() + len(r"\uXXXX")]
        if r"\u".startswith(rest[:2]) and len(rest) < len(r"\uXXXX"):
            return None
        return first[0] + rest if LOW_HALF.fullmatch(rest) else first[0]

    def _tail(self) -> bool:
        at = self._buffer.find(CLOSE)
        if at < 0:
            self._buffer = self._buffer[-len(CLOSE) :]
            return False
        self._buffer, self._state = self._buffer[at + len(CLOSE) :], _State.TEXT
        return True

    def _object(self, inner: str, parts: list[Part], *, close: str = "") -> None:
        """A call that is only known whole; what is none is text as it stands."""
        made = _decoded(inner)
        name = made.get("name") if isinstance(made, dict) else None
        arguments = made.get("arguments") if isinstance(made, dict) else None
        if isinstance(arguments, str):  # some models write the object as a text
            arguments = _decoded(arguments)
        if isinstance(name, str) and name and isinstance(arguments, dict):
            text = json.dumps(arguments, ensure_ascii=False)
            parts.append(CallPart(index=self.calls, name=name, arguments=text))
            self.calls += 1
        else:
            self._tell(inner if self._whole else self._gap + OPEN + inner + close, parts)

    @staticmethod
    def _tell(text: str, parts: list[Part]) -> None:
        if text:
            parts.append(text)


def _decoded(text: str) -> Any:
    """What JSON says; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unescaped(code: str) -> str:
    made = _decoded(f'"{code}"')
    text = made if isinstance(made, str) else "\N{REPLACEMENT CHARACTER}"
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
