"""Texts to be embedded, and the vectors that come back (protocol.md, "Embeddings").

In tier text they take the place of a conversation and of its answer: what counts, hashes and pays
text does the same for them.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.errors import DecodeError
from node.protocol import chat, limits
from node.protocol.chat import Chat, with_tools
from node.protocol.pieces import CountTokens
from node.protocol.statements import Skill

INPUT_TOKENS: Final = 4
"""What an input counts besides its text: about what models put around one."""
FLOAT_BYTES: Final = 4
END: Final = "\n"
"""Between two vectors."""
TOKENS_MAX: Final = limits.REQUEST_BYTES_MAX + limits.INPUTS_MAX * (
    4 * -(-FLOAT_BYTES * limits.DIMENSIONS_MAX // 3) + len(END)
)
"""Most tokens of inputs and vectors together: no byte counts more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Texts, each of which is to become a vector.

    Raises:
        DecodeError: Not what a request may carry.
    """

    texts: tuple[str, ...]
    dimensions: int = 0
    """Of each vector; 0: as many as the model makes."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= limits.INPUTS_MAX:
            raise DecodeError("embeddings: no inputs, or too many")
        if not all(self.texts):
            raise DecodeError("embeddings: an empty input")
        if not 0 <= self.dimensions <= limits.DIMENSIONS_MAX:
            raise DecodeError("embeddings: too many dimensions")
        try:
            size = len(self.encode())
        except UnicodeEncodeError:
            raise DecodeError("embeddings: half a character") from None
        if size > limits.REQUEST_BYTES_MAX:
            raise DecodeError("embeddings: too long")

    def encode(self) -> bytes:
        """Canonical bytes, as those of a conversation."""
        document: dict[str, Any] = {"input": list(self.texts)}
        if self.dimensions:
            document["dimensions"] = self.dimensions
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def tokens(self, count: CountTokens, *, at_most: int = 2**32 - 1) -> int:
        """Prompt tokens; `at_most` as for `Chat.tokens`.

        Raises:
            PeerError: The tokenizer fails.
        """
        total = INPUT_TOKENS * len(self.texts)
        for text in self.texts:
            total += chat.text_tokens(text, count, at_most=at_most - total)
            if total > at_most:
                break
        return total

    @property
    def output_max(self) -> int:
        """Tokens that are enough for the vectors."""
        line = 4 * -(-FLOAT_BYTES * (self.dimensions or limits.DIMENSIONS_MAX) // 3)
        return len(self.texts) * (line + len(END))


TextPrompt = Chat | Inputs
"""What is asked in tier text."""


def decode(data: bytes) -> TextPrompt:
    """A prompt of tier text from its canonical bytes; no other bytes are accepted.

    Raises:
        DecodeError: Not JSON, not canonical, or something in it is not allowed.
    """
    if not data.startswith((b'{"dimensions":', b'{"input":')):
        return chat.decode(data)
    if len(data) > limits.REQUEST_BYTES_MAX:
        raise DecodeError("embeddings: too long")
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError("embeddings: not JSON") from error
    inputs = _inputs(document)
    if inputs.encode() != data:
        raise DecodeError("embeddings: not canonical")
    return inputs


def _inputs(document: dict[str, Any]) -> Inputs:
    if not document.keys() <= {"input", "dimensions"}:
        raise DecodeError("embeddings: unknown keys")
    texts, dimensions = document.get("input"), document.get("dimensions", 0)
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise DecodeError("embeddings: inputs that are no texts")
    if type(dimensions) is not int:
        raise DecodeError("embeddings: dimensions that are no number")
    return Inputs(texts=tuple(texts), dimensions=dimensions)


def skills_of(prompt: TextPrompt) -> int:
    """What a worker needs for a prompt of tier text: bits of `Skill`."""
    if isinstance(prompt, Chat):
        return Skill.TOOLS if with_tools(prompt.messages, prompt.toolbox) else 0
    return Skill.EMBEDDINGS | (Skill.DIMENSIONS if prompt.dimensions else 0)


def written(vectors: Iterable[Sequence[float]]) -> list[str]:
    """The parts of the output that says some vectors.

    Raises:
        DecodeError: A number is none that a 32-bit float can hold.
    """
    try:
        packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    except (struct.error, OverflowError) as error:
        raise DecodeError("embeddings: a number that is no 32-bit float") from error
    lines = [base64.b64encode(data).decode() for data in packed]
    return [END * (at > 0) + line for at, line in enumerate(lines)]


def read(output: str, inputs: Inputs) -> tuple[tuple[float, ...], ...]:
    """The vectors that an output says.

    Raises:
        DecodeError: It is not one vector for each input, all of one size and of finite numbers.
    """
    lines = output.split(END)
    if len(lines) != len(inputs.texts):
        raise DecodeError(f"{len(lines)} vectors for {len(inputs.texts)} inputs")
    vectors = tuple(map(_vector, lines))
    sizes = {len(vector) for vector in vectors}
    if len(sizes) > 1:
        raise DecodeError("vectors of several sizes")
    if inputs.dimensions and sizes != {inputs.dimensions}:
        raise DecodeError(f"vectors of {sizes.pop()} dimensions instead of {inputs.dimensions}")
    return vectors


def _vector(line: str) -> tuple[float, ...]:
    try:
        data = base64.b64decode(line, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DecodeError("a vector that is not base64") from error
    count, rest = divmod(len(data), FLOAT_BYTES)
    if rest or not 1 <= count <= limits.DIMENSIONS_MAX:
        raise DecodeError("a vector of no possible size")
    vector = struct.unpack(f"<{count}f", data)
    if not all(map(math.isfinite, vector)):
        raise DecodeError("a vector with a number that is not finite")
    return vector
