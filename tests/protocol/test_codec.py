import gc
import random
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import codec, limits
from node.protocol.fields import (
    Blob,
    Fixed,
    Flag,
    Int,
    Kind,
    ListOf,
    Maybe,
    Nested,
    Signed,
    SignedOf,
    Text,
    UInt,
    schema,
)
from node.protocol.frames import FRAMES, Chunk, Hello, OffersWanted, Request, Resume, VoucherFrame
from node.protocol.statements import Terms, Voucher
from node.protocol.transcript import Disclosure, SealedTranscript
from tests.protocol import strategies

FRAME_CLASSES = sorted(FRAMES.values(), key=lambda cls: cls.kind)


def decode(payload: bytes) -> Any:
    return codec.decode_frame(payload)


def sample(cls: type[Any]) -> Any:
    """The smallest valid instance: zeros and nothing."""
    return cls(**{field.name: smallest(field.kind) for field in schema(cls)})


def smallest(kind: Kind) -> Any:
    match kind:
        case UInt() | Int():
            return 0
        case Flag():
            return False
        case Fixed():
            return bytes(kind.size)
        case Blob():
            return b""
        case Text():
            return ""
        case ListOf():
            return ()
        case Maybe():
            return None
        case Nested():
            return sample(kind.cls)
        case SignedOf():
            return Signed(sample(kind.cls), bytes(64))


# --- round trips


@pytest.mark.parametrize("cls", FRAME_CLASSES, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_frame_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    frame = data.draw(strategies.messages(cls))
    wire = codec.encode_frame(frame)
    assert codec.unpack_length(wire) == len(wire) - codec.LENGTH_SIZE
    assert codec.decode_frame(wire[codec.LENGTH_SIZE :]) == frame


@settings(max_examples=25, deadline=None)
@given(request=strategies.messages(Request))
def test_a_request_comes_back_as_it_was(request: Request) -> None:
    assert codec.decode_request(codec.encode(request)) == request


@pytest.mark.parametrize("cls", strategies.STATEMENTS, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_statement_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    signed = data.draw(strategies.signed(cls))
    assert codec.decode_signed(cls, codec.encode_struct(signed)) == signed
    statement = signed.statement
    assert codec.decode_struct(cls, codec.encode_struct(statement)) == statement


@pytest.mark.parametrize("cls", [SealedTranscript, Disclosure], ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_files_come_back_as_they_were(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(strategies.messages(cls))
    assert codec.decode_struct(cls, codec.encode_struct(value)) == value


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_ids_come_back_as_they_were(ids: list[int]) -> None:
    assert codec.unpack_ids(codec.pack_ids(ids)) == tuple(ids)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ids_that_are_not_whole(size: int) -> None:
    with pytest.raises(DecodeError):
        codec.unpack_ids(bytes(size))


# --- nothing but DecodeError escapes


@settings(max_examples=400, deadline=None)
@given(payload=st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused(payload: bytes) -> None:
    for attempt in (codec.decode_frame, codec.decode_request):
        try:
            attempt(payload)
        except DecodeError:
            continue


MSGPACK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=70)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(sorted(FRAMES)), items=st.lists(MSGPACK, max_size=6))
def test_arbitrary_fields_decode_or_are_refused(kind: int, items: list[Any]) -> None:
    try:
        frame = decode(msgpack.packb([kind, *items]))
    except DecodeError:
        return
    assert frame.kind == kind


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_bytes_decode_to_something_in_bounds_or_are_refused(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(FRAME_CLASSES))
    payload = bytearray(codec.encode(data.draw(strategies.messages(cls))))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        frame = decode(bytes(payload))
    except DecodeError:
        return
    # What passes is a message that could have been sent: encoding and decoding it is stable.
    assert decode(codec.encode(frame)) == frame


def test_ten_thousand_malformed_frames_neither_crash_nor_grow() -> None:
    draw = random.Random(7)
    good = [codec.encode(sample(cls)) for cls in FRAME_CLASSES]
    gc.collect()
    tracemalloc.start()
    for _ in range(10_000):
        payload = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 4)):
            payload[draw.randrange(len(payload))] = draw.randrange(256)
        if draw.random() < 0.3:
            del payload[draw.randrange(len(payload)) :]
        try:
            decode(bytes(payload))
        except DecodeError:
            continue
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2_000_000


# --- strictness


@pytest.mark.parametrize("cls", FRAME_CLASSES, ids=lambda cls: cls.__name__)
def test_a_field_more_or_less_is_refused(cls: type[Any]) -> None:
    items = msgpack.unpackb(codec.encode(sample(cls)))
    with pytest.raises(DecodeError, match="number of fields"):
        decode(msgpack.packb([*items, 0]))
    with pytest.raises(DecodeError, match=r"number of fields|unknown kind"):
        decode(msgpack.packb(items[:-1]))


@pytest.mark.parametrize("cls", FRAME_CLASSES, ids=lambda cls: cls.__name__)
def test_bytes_after_the_end_and_missing_bytes_are_refused(cls: type[Any]) -> None:
    payload = codec.encode(sample(cls))
    with pytest.raises(DecodeError, match="after the end"):
        decode(payload + b"\xc0")
    for size in range(len(payload)):
        with pytest.raises(DecodeError):
            decode(payload[:size])


WRONG: dict[type[Any], list[Any]] = {
    UInt: [-1, True, False, 1.0, "0", b"0", None, [], {}],
    Int: [True, 1.0, "0", None, 2**31, -(2**31) - 1],
    Flag: [0, 1, None, "true"],
    Fixed: [b"", "x", None, 0, []],
    Blob: ["text", None, 0, []],
    Text: [b"bytes", None, 0, []],
    ListOf: [None, 0, b"", {}],
    Nested: [None, 0, [], {}],
    Maybe: [0, b"", [], False],
    SignedOf: [None, [], [0, 0], 0],
}


def wrong_values(kind: Kind) -> list[Any]:
    found = list(WRONG[type(kind)])
    match kind:
        case UInt() if kind.bits < 64 or kind.ceiling < 2**64 - 1:
            found.append(kind.ceiling + 1)
        case Fixed():
            found += [bytes(kind.size + 1), bytes(kind.size - 1), "x" * kind.size]
        case Blob():
            found.append(bytes(kind.size_max + 1))
        case Text():
            found += ["x" * (kind.size_max + 1), "é" * (kind.size_max // 2 + 1)]
        case ListOf():
            found.append([plain(smallest(kind.item))] * (kind.count_max + 1))
        case SignedOf():
            found.append([plain(sample(kind.cls)), bytes(63)])
            found.append([plain(sample(kind.cls)), "x" * 64])
        case _:
            pass
    return found


def plain(value: Any) -> Any:
    """A message's value as the lists and scalars that msgpack sees."""
    if isinstance(value, Signed):
        return [plain(value.statement), value.signature]
    if hasattr(value, "__dataclass_fields__"):
        return [plain(getattr(value, field.name)) for field in schema(type(value))]
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("cls", strategies.FRAMES, ids=lambda cls: cls.__name__)
def test_every_field_refuses_other_types_and_what_is_out_of_bounds(cls: type[Any]) -> None:
    attempt = codec.decode_request if cls is Request else codec.decode_frame
    fields = plain(sample(cls))
    for at, field in enumerate(schema(cls)):
        for wrong in wrong_values(field.kind):
            payload = msgpack.packb([cls.kind, *fields[:at], wrong, *fields[at + 1 :]])
            with pytest.raises(DecodeError):
                attempt(payload)


@pytest.mark.parametrize("cls", strategies.FRAMES, ids=lambda cls: cls.__name__)
def test_every_field_takes_its_largest_value(cls: type[Any]) -> None:
    attempt: Any = codec.decode_request if cls is Request else codec.decode_frame
    for field in schema(cls):
        value = largest(field.kind)
        if value is None:
            continue
        message = sample(cls)
        message = cls(
            **{f.name: getattr(message, f.name) for f in schema(cls)} | {field.name: value}
        )
        assert attempt(codec.encode(message)) == message


def largest(kind: Kind) -> Any:
    match kind:
        case UInt():
            return kind.ceiling
        case Int():
            return -(2 ** (kind.bits - 1))
        case Blob() if kind.size_max <= limits.DATA_BYTES_MAX:
            return bytes(kind.size_max)
        case Text():
            return "x" * kind.size_max
        case ListOf():
            return (smallest(kind.item),) * kind.count_max
        case _:
            return None


def test_a_request_is_no_frame_and_a_frame_no_request() -> None:
    with pytest.raises(DecodeError, match="unknown kind"):
        codec.decode_frame(codec.encode(sample(Request)))
    with pytest.raises(DecodeError, match="not a request"):
        codec.decode_request(codec.encode(sample(Hello)))


@pytest.mark.parametrize(
    "payload", [b"", b"\x90", b"\xc0", b"\x80", b"\x93", b"\x91\xc3", b"\x91\xcb" + bytes(8)]
)
def test_what_is_no_array_with_a_kind_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(payload)


def test_text_that_is_not_utf8_is_refused() -> None:
    payload = codec.encode(sample(Hello))
    assert payload.endswith(b"\xa0")
    for bad in (b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xa2\xc0\xaf"):
        with pytest.raises(DecodeError, match=r"Hello.agent"):
            decode(payload[:-1] + bad)


def test_the_field_is_named() -> None:
    message = sample(VoucherFrame)
    items = [VoucherFrame.kind, *plain(message)]
    items[1][0][4] = -1
    with pytest.raises(DecodeError, match=r"VoucherFrame.voucher: Voucher.cumulative: "):
        decode(msgpack.packb(items))


# --- lengths


@pytest.mark.parametrize("size", [0, limits.FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_length_that_nothing_may_have_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        codec.unpack_length(codec.pack_length(size))


def test_a_length_cut_short_is_refused() -> None:
    for size in range(codec.LENGTH_SIZE):
        with pytest.raises(DecodeError):
            codec.unpack_length(bytes(size))


def test_payloads_over_their_limits_are_refused_unread() -> None:
    with pytest.raises(DecodeError, match="frame of"):
        codec.decode_frame(bytes(limits.FRAME_BYTES_MAX + 1))
    with pytest.raises(DecodeError, match="request of"):
        codec.decode_request(bytes(limits.REQUEST_BYTES_MAX + 1))


def test_the_largest_frames_fit() -> None:
    chunk = Chunk(
        job=bytes(16),
        position=2**32 - 1,
        data=bytes(limits.DATA_BYTES_MAX),
        logprobs=bytes(limits.DATA_BYTES_MAX),
    )
    voucher = sample(VoucherFrame)
    rises = (largest_of(VoucherFrame, "rises"),) * limits.RISES_MAX
    full = VoucherFrame(
        voucher=voucher.voucher, rises=rises, receipts=(bytes(32),) * limits.RISES_MAX
    )
    resume = Resume(vouchers=(Signed(largest_struct(Voucher), bytes(64)),) * 64)
    for frame in (chunk, full, resume):
        assert decode(codec.encode_frame(frame)[codec.LENGTH_SIZE :]) == frame


def largest_of(cls: type[Any], name: str) -> Any:
    kind = next(field.kind for field in schema(cls) if field.name == name)
    assert isinstance(kind, ListOf)
    assert isinstance(kind.item, Nested)
    return largest_struct(kind.item.cls)


def largest_struct(cls: type[Any]) -> Any:
    values = {}
    for field in schema(cls):
        biggest = largest(field.kind)
        values[field.name] = smallest(field.kind) if biggest is None else biggest
    return cls(**values)


# --- bombs

ARRAY_16 = b"\xdc\x04\x00"
BOMBS = {
    "nested arrays": ARRAY_16 * 20_000,
    "nested arrays of one": b"\x91" * 60_000,
    "rows of empty arrays": b"\xdc\x00\x3f" + (ARRAY_16 + b"\x90" * 1024) * 63,
    "rows of empty maps": b"\xdc\x00\x3f" + (ARRAY_16 + b"\x80" * 1024) * 63,
    "a list inside a field": b"\x92\x02" + b"\xdd\x7f\xff\xff\xff",
    "an array of four thousand million": b"\xdd\xff\xff\xff\xff",
    "a map of four thousand million": b"\x92\x02\xdf\xff\xff\xff\xff",
    "a binary of four gigabytes": b"\x92\x02\xc6\xff\xff\xff\xff",
    "a text of four gigabytes": b"\x92\x02\xdb\xff\xff\xff\xff",
    "an extension": b"\x92\x02\xc9\xff\xff\xff\xff\x01",
    "a timestamp": b"\x92\x02\xd6\xff\x00\x00\x00\x00",
    "models of offers wanted, a million": bytes([0x92, OffersWanted.kind])
    + b"\xdd\x00\x0f\x42\x40"
    + b"\xc0" * 50_000,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("times", [1, 16], ids=["frame", "request"])
def test_bombs_are_refused_fast_and_small(name: str, times: int) -> None:
    bomb = (BOMBS[name] * times)[: limits.REQUEST_BYTES_MAX]
    attempt: Any = codec.decode_frame if times == 1 else codec.decode_request
    gc.collect()
    tracemalloc.start()
    with pytest.raises(DecodeError):
        attempt(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    fastest = min(_seconds(attempt, bomb) for _ in range(3))
    assert peak < 5_000_000
    assert fastest < 0.005


def _seconds(attempt: Any, bomb: bytes) -> float:
    started = time.perf_counter()
    with pytest.raises(DecodeError):
        attempt(bomb)
    return time.perf_counter() - started


def test_a_body_of_the_largest_size_is_decoded() -> None:
    request = sample(Request)
    overhead = len(codec.encode(request)) + 8
    body = codec.encode(
        Request(
            salt=request.salt,
            prompt=bytes(limits.REQUEST_BYTES_MAX - overhead),
            prefix=b"",
            sampling=request.sampling,
            stop=(),
            ignore_eos=False,
        )
    )
    assert len(body) <= limits.REQUEST_BYTES_MAX
    assert len(codec.decode_request(body).prompt) == limits.REQUEST_BYTES_MAX - overhead


def test_terms_decode_to_the_same_whatever_form_of_integer_was_sent() -> None:
    # Statements are hashed by value (EIP-712), so a longer form of a number changes no signature.
    terms = sample(Terms)
    short = codec.encode_struct(terms)
    # tier, the first number, stands after two addresses and the model
    at = 3 + 22 * 2 + 34
    assert short[at] == 0
    assert codec.decode_struct(Terms, short[:at] + b"\xcd\x00\x00" + short[at + 1 :]) == terms
