"""Grammars of formats, made by llguidance: which token ids may follow (protocol-sampling.md).

The library is loaded with the first tokenizer or schema, and not before.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.errors import PeerError, Unavailable
from node.protocol.formats import FormatError


def check(format: str) -> None:
    """Whether a grammar can be made of a format; computes for some milliseconds.

    Raises:
        FormatError: None can.
    """
    import llguidance

    grammar = _grammar(format)
    said = llguidance.LLMatcher.validate_grammar(grammar, limits=_limits())
    if said and not said.startswith("WARNING:"):
        raise FormatError(f"the schema can't be forced: {_short(said)}")


class Grammars:
    """Makes the grammars of one model's jobs."""

    def __init__(self, tokenizer: bytes, *, vocab: int, eos_ids: Sequence[int]) -> None:
        """
        Args:
            tokenizer: The model's tokenizer.json.
            vocab: Ids are below this.
            eos_ids: End tokens: allowed where the output is whole, and nowhere else.

        Raises:
            Unavailable: The library can't use the tokenizer, or nothing would end an output.
        """
        import llguidance

        if not eos_ids:
            raise Unavailable("the model has no end token")
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer.decode(), n_vocab=vocab, eos_token=list(eos_ids)
            )
        except Exception as error:  # whatever the library says of a file that it can't use
            raise Unavailable(f"no formats with this tokenizer: {_short(str(error))}") from error
        self._vocab = vocab

    def start(self, format: str, prefix: Sequence[int] = ()) -> "Grammar":
        """A job's grammar, after the output that it has already.

        Computes for some milliseconds, and more for a long prefix: call it in a thread.

        Raises:
            PeerError: The prefix does not fit the format.
            Unavailable: No grammar can be made of the format.
        """
        import llguidance

        matcher = llguidance.LLMatcher(
            self._tokenizer, _grammar(format), log_level=0, limits=_limits()
        )
        if matcher.is_error():
            raise Unavailable(f"the format can't be forced: {_short(matcher.get_error())}")
        if prefix and not matcher.consume_tokens(list(prefix)):
            raise PeerError("a prefix that does not fit the format")
        return Grammar(matcher, self._vocab)


class Grammar:
    """Which ids may follow in one output.  Grows by `push`; belongs to one thread at a time."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher = matcher
        self._vocab = vocab

    def allowed(self) -> NDArray[np.int64]:
        """Ids that may come next, ascending; an end token only where the output is whole.

        Raises:
            Unavailable: The grammar leads nowhere, or finding out would take too long.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        ids = np.flatnonzero(np.unpackbits(mask, count=self._vocab, bitorder="little"))
        if self._matcher.is_error() or not len(ids):
            raise Unavailable(f"the format leads nowhere: {_short(self._matcher.get_error())}")
        return ids

    def push(self, token: int) -> None:
        """The next id: one of those allowed.

        Raises:
            Unavailable: It is none, or finding out would take too long.
        """
        if not self._matcher.consume_token(token):
            raise Unavailable(f"the format was left: {_short(self._matcher.get_error())}")


def _grammar(format: str) -> str:
    """Of JSON without white space: with any, a small model could write nothing else."""
    import llguidance

    made: str = llguidance.LLMatcher.grammar_from_json_schema(
        format,
        overrides={"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    )
    return made


def _limits() -> Any:
    """A few milliseconds for each part, by the library's own figures.

    Its defaults are several times that, and would hold up the other jobs of an engine.
    """
    import llguidance

    return llguidance.LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=5_000,
        max_items_in_row=500,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


def _short(said: str) -> str:
    return " ".join(said.split())[:160] or "it ends before the output does"
