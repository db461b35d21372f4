"""Grammars by the real library over the shipped tokenizer: what they allow, and what they cost."""

import json
import random
import time
from typing import Any

import numpy as np
import pytest

from node.adapters import grammar, model_folder
from node.adapters.grammar import Grammar, Grammars
from node.adapters.text.chat import ChatText
from node.errors import PeerError, Unavailable
from node.protocol import formats
from node.protocol.formats import FormatError
from node.protocol.manifest import FileRole
from tests.vectors.formats import VALID

FOLDER = model_folder.load(model_folder.shipped())
FILES = FOLDER.client_files()
TEXT = ChatText.of(FILES)
VOCAB, END = FOLDER.manifest.vocab, FOLDER.manifest.eos_ids[0]
GRAMMARS = Grammars(FILES[FileRole.TOKENIZER], vocab=VOCAB, eos_ids=FOLDER.manifest.eos_ids)
STEP_S_MAX = 0.5
"""Ten times the worst that was seen, on a machine that is busy with other things."""


def ids(text: str) -> tuple[int, ...]:
    return TEXT.encode(text)


def written(started: Grammar, rng: random.Random, tokens_max: int) -> tuple[list[int], bool]:
    """Ids drawn from all that are allowed; whether the end was reached."""
    made: list[int] = []
    while len(made) < tokens_max:
        token = int(rng.choice(started.allowed().tolist()))
        if token == END:
            return made, True
        started.push(token)
        made.append(token)
    return made, False


@pytest.mark.parametrize("name", sorted(set(VALID) - {"anything", "any object"}))
def test_whatever_is_drawn_is_json_that_fits(name: str) -> None:
    ended = 0
    for seed in range(20):
        made, whole = written(GRAMMARS.start(VALID[name]), random.Random(seed), 400)
        if whole:
            assert isinstance(json.loads(TEXT.decode(made)), dict | list | None)
            ended += 1
    assert ended


def test_what_is_drawn_has_the_properties_in_order_and_within_their_limits() -> None:
    for seed in range(20):
        made, whole = written(GRAMMARS.start(VALID["a person"]), random.Random(seed), 400)
        assert whole
        text = TEXT.decode(made)
        person = json.loads(text)
        assert set(person) >= {"name", "age"}
        assert list(person)[:2] == ["name", "age"]
        assert 1 <= len(person["name"]) <= 20
        assert 0 <= person["age"] <= 150
        assert person.get("mood") in ("good", "bad", None)
        assert json.dumps(person, separators=(",", ":"), ensure_ascii=False) == text


def test_the_end_is_allowed_where_the_text_is_whole_and_only_there() -> None:
    format = '{"type":"integer","minimum":1,"maximum":99}'
    started = GRAMMARS.start(format)
    assert END not in started.allowed()
    (one,) = ids("1")
    started.push(one)
    assert END in started.allowed()  # 1, or the start of 10
    started.push(one)
    assert started.allowed().tolist() == [END]


def test_special_tokens_are_never_allowed() -> None:
    special = set(range(5)) - {END}
    started = GRAMMARS.start('{"type":"string"}')
    started.push(ids('"')[0])
    allowed = set(started.allowed().tolist())
    assert len(allowed) > 1000
    assert not allowed & special


def test_several_end_tokens_and_ids_without_a_text() -> None:
    grammars = Grammars(FILES[FileRole.TOKENIZER], vocab=VOCAB + 50, eos_ids=(END, 1))
    started = grammars.start('{"const":1}')
    started.push(ids("1")[0])
    assert started.allowed().tolist() == [END, 1]


def test_after_a_prefix_it_is_where_it_would_have_been() -> None:
    text = '{"name":"Ann","age":1'
    made = ids(text)
    for cut in range(len(made)):
        before = GRAMMARS.start(VALID["a person"], made[:cut])
        assert made[cut] in before.allowed()
        whole = GRAMMARS.start(VALID["a person"])
        for token in made[:cut]:
            whole.push(token)
        np.testing.assert_array_equal(before.allowed(), whole.allowed())


@pytest.mark.parametrize("text", ["x", '{ "name"', '{"age":1', '{"name":"Ann","age":151'])
def test_a_prefix_that_does_not_fit(text: str) -> None:
    with pytest.raises(PeerError, match="prefix"):
        GRAMMARS.start(VALID["a person"], ids(text))


def test_an_id_that_is_not_allowed_is_not_taken() -> None:
    started = GRAMMARS.start(VALID["a person"])
    with pytest.raises(Unavailable, match="left"):
        started.push(ids("x")[0])


@pytest.mark.parametrize(
    "format", ['{"type":"string","pattern":"("}', '{"type":"string","pattern":"(?=a)b"}']
)
def test_what_the_library_can_not_do_is_refused_before_it_is_asked_for(format: str) -> None:
    formats.read(format)
    with pytest.raises(FormatError, match="can't be forced"):
        grammar.check(format)
    with pytest.raises(Unavailable):
        GRAMMARS.start(format)


@pytest.mark.parametrize("name", VALID)
def test_what_is_valid_can_be_forced(name: str) -> None:
    grammar.check(VALID[name])


def test_a_tokenizer_that_the_library_can_not_use_sells_no_formats() -> None:
    with pytest.raises(Unavailable, match="no formats"):
        Grammars(b'{"version":"1.0"}', vocab=VOCAB, eos_ids=(END,))
    with pytest.raises(Unavailable, match="end token"):
        Grammars(FILES[FileRole.TOKENIZER], vocab=VOCAB, eos_ids=())


PATTERNS = (
    "a.{20}b", "(a?){50}a{50}", "^.*a.{60}$", "((a{10}){10}){10}", "(([a-z]+)*[0-9]+)*",
    "\\p{L}{100}", "^[^x]*$", "(ab|cd)*e", "(.|\n)*a.{30}(.|\n)*",
)  # fmt: skip


def hostile(rng: random.Random, depth: int, names: list[str]) -> Any:
    """A schema of what is listed, near its limits."""
    leaves: list[Any] = [
        {"type": "string", "minLength": rng.randint(0, 65_536)},
        {"type": "string", "pattern": rng.choice(PATTERNS)},
        {"type": "string", "pattern": rng.choice(PATTERNS), "minLength": 9, "maxLength": 65_536},
        {"type": "string", "format": rng.choice(sorted(formats.STRING_FORMATS))},
        {"type": "integer", "multipleOf": 997, "minimum": -(10**6)},
        {"type": "number", "exclusiveMinimum": rng.random() * 1e9, "maximum": 1e12},
        {"enum": ["ab" * rng.randint(1, 20) + str(n) for n in range(rng.randint(1, 40))]},
        True,
    ]
    kind = rng.random()
    if depth <= 0 or kind < 0.3:
        return rng.choice(leaves)
    if kind < 0.5:
        keys = [rng.choice("abcdefgh") * rng.randint(1, 6) for _ in range(rng.randint(1, 12))]
        return {
            "type": "object",
            "properties": {key: hostile(rng, depth - 1, names) for key in keys},
            "required": [key for key in keys if rng.random() < 0.5],
            "additionalProperties": rng.choice([False, True, {"type": "integer"}]),
        }
    if kind < 0.65:
        many = rng.choice([0, 1, 100, 65_536])
        return {"type": "array", "items": hostile(rng, depth - 1, names), "minItems": many}
    if kind < 0.85:
        return {"anyOf": [hostile(rng, depth - 1, names) for _ in range(rng.randint(1, 20))]}
    return {"$ref": "#/$defs/" + rng.choice(names)}


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_is_listed_takes_long(seed: int) -> None:
    rng, tried, slowest_s = random.Random(seed), 0, 0.0
    while tried < 40:
        names = [f"d{n}" for n in range(rng.randint(1, 12))]
        schema: dict[str, Any] = {"anyOf": [hostile(rng, rng.randint(1, 6), names)]}
        schema["$defs"] = {name: hostile(rng, rng.randint(0, 4), names) for name in names}
        began_s = time.thread_time()
        try:
            format = formats.written(schema)
            started = GRAMMARS.start(format)
        except (FormatError, Unavailable):
            slowest_s = max(slowest_s, time.thread_time() - began_s)
            continue
        slowest_s = max(slowest_s, time.thread_time() - began_s)
        tried += 1
        try:
            for _ in range(20):
                began_s = time.thread_time()
                token = int(rng.choice(started.allowed().tolist()))
                if token == END:
                    break
                started.push(token)
                slowest_s = max(slowest_s, time.thread_time() - began_s)
        except Unavailable:
            slowest_s = max(slowest_s, time.thread_time() - began_s)
    assert slowest_s < STEP_S_MAX


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_991},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}}] * 1200},
        {"$ref": "#/$defs/a", "multipleOf": 991,
         "$defs": {"a": {"$ref": "#/$defs/b", "multipleOf": 983},
                   "b": {"type": "integer", "multipleOf": 977}}},
    ],
)  # fmt: skip
def test_what_takes_the_library_seconds_is_not_listed(schema: Any) -> None:
    with pytest.raises(FormatError):
        formats.written(schema)
