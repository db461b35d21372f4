"""Log probabilities in a chunk: one record per id (protocol.md, "Logprobs").

A record is the id's own natural log probability as a big-endian f32, a count u8, and as many pairs
of a token id u32 and its log probability f32, most probable first.
"""

import struct
from dataclasses import dataclass

from node.errors import DecodeError
from node.protocol import limits

_HEAD = struct.Struct(">fB")
_PAIR = struct.Struct(">If")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log probability of a delivered id, and of the most probable ids in its place."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def encode(tokens: tuple[TokenLogprob, ...]) -> bytes:
    """The records of some tokens, one after the other."""
    return b"".join(
        _HEAD.pack(token.chosen, len(token.top)) + b"".join(_PAIR.pack(*pair) for pair in token.top)
        for token in tokens
    )


def decode(data: bytes, count: int) -> tuple[TokenLogprob, ...]:
    """The records of exactly `count` tokens; none at all for empty data.

    Raises:
        DecodeError: Not that many whole records, too many pairs, or not a log probability.
    """
    if not data:
        return ()
    tokens, offset = [], 0
    try:
        for _ in range(count):
            chosen, pairs = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            if pairs > limits.LOGPROBS_MAX:
                raise DecodeError("too many log probabilities")
            top = tuple(_PAIR.unpack_from(data, offset + n * _PAIR.size) for n in range(pairs))
            offset += pairs * _PAIR.size
            tokens.append(TokenLogprob(chosen=chosen, top=top))
    except struct.error:
        raise DecodeError("log probabilities are cut short") from None
    if offset != len(data):
        raise DecodeError("more log probabilities than tokens")
    if any(not value <= 0 for token in tokens for value in _values(token)):  # NaN fails as well
        raise DecodeError("not a log probability")
    return tuple(tokens)


def _values(token: TokenLogprob) -> tuple[float, ...]:
    return (token.chosen, *(value for _, value in token.top))
