"""Input that is nearly valid: what Hypothesis can find, and shrink."""

from hypothesis import strategies as st

PIECES = (
    b"",
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 2000,
    b"\xc7\x08\x05",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"null",
    b'"\\ud800"',
    b"{{",
    b"{% for x in range(10**9) %}",
    b"\xc3\x28",
    b"/p2p/",
    b"%",
)


@st.composite
def mutated(draw: st.DrawFn, valid: tuple[bytes, ...]) -> bytes:
    """One of the valid inputs, with up to four changes; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[at % len(data)] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = draw(st.sampled_from(PIECES))
            case 3:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case 4:
                end = at + draw(st.integers(1, 60))
                data[at:at] = data[at:end]
            case 5:
                end = at + draw(st.integers(1, 20))
                data[at:end] = draw(st.sampled_from(PIECES))
            case _:
                pass
    return bytes(data)
