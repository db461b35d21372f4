"""Between rows and statements."""

from collections.abc import Sequence
from typing import Any, TypeVar

from node.errors import CorruptState, DecodeError
from node.protocol import codec
from node.protocol.fields import Hash, Signed
from node.protocol.frames import VoucherFrame
from node.protocol.receipts_tree import Frontier

T = TypeVar("T")
HASH_SIZE = 32


def signed_out(value: Signed[Any]) -> bytes:
    """The bytes of a signed statement."""
    return codec.encode_struct(value)


def signed_in(cls: type[T], blob: bytes) -> Signed[T]:
    """A signed statement from its bytes.

    Raises:
        CorruptState: The file was changed by something else.
    """
    try:
        return codec.decode_signed(cls, blob)
    except DecodeError as error:
        raise CorruptState(f"the store holds a broken {cls.__name__}: {error}") from None


def maybe_in(cls: type[T], blob: bytes | None) -> Signed[T] | None:
    """The same, where there may be none."""
    return None if blob is None else signed_in(cls, blob)


def frame_in(blob: bytes) -> VoucherFrame:
    """A voucher frame from its bytes; raises as `signed_in`."""
    try:
        frame = codec.decode_frame(blob)
    except DecodeError as error:
        raise CorruptState(f"the store holds a broken voucher: {error}") from None
    if not isinstance(frame, VoucherFrame):
        raise CorruptState("the store holds another frame where a voucher was")
    return frame


def hashes_out(hashes: Sequence[Hash]) -> bytes:
    """Hashes one after the other."""
    return b"".join(hashes)


def hashes_in(blob: bytes) -> tuple[Hash, ...]:
    """The inverse of `hashes_out`."""
    return tuple(blob[at : at + HASH_SIZE] for at in range(0, len(blob), HASH_SIZE))


def frontier_in(size: int, peaks: bytes) -> Frontier:
    """A tree's frontier."""
    return Frontier(size=size, peaks=hashes_in(peaks))
