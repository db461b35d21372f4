"""The hellos of a new session: both sides speak first, then each decides whether they fit."""

import trio

from node.adapters.p2p.framing import FrameReader, WireStream, printable
from node.adapters.p2p.link import WINDOW_BYTES_MIN
from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import codec
from node.protocol.frames import NO_JOB, ErrorFrame, Fault, Hello

HELLO_S = 5.0


class HelloMismatch(PeerError):
    """The peer is fine by itself, but no partner of ours; `fault` is what it is told."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


def check_hello(ours: Hello, theirs: Hello) -> None:
    """Whether both can do business.

    Raises:
        HelloMismatch: Naming what differs, with both values.
    """
    if ours.version_max < theirs.version_min or theirs.version_max < ours.version_min:
        raise HelloMismatch(
            f"the peer speaks protocol versions {theirs.version_min}-{theirs.version_max}, "
            f"this node {ours.version_min}-{ours.version_max}",
            Fault.VERSION,
        )
    if ours.chain_id != theirs.chain_id:
        raise HelloMismatch(
            f"the peer is on chain {theirs.chain_id}, this node on {ours.chain_id}", Fault.CHAIN
        )
    if ours.escrow != theirs.escrow:
        raise HelloMismatch(
            f"the peer uses escrow 0x{theirs.escrow.hex()}, this node 0x{ours.escrow.hex()}",
            Fault.CHAIN,
        )
    if theirs.job_window < WINDOW_BYTES_MIN:
        raise HelloMismatch(
            f"the peer's job window of {theirs.job_window} bytes is too small", Fault.PROTOCOL
        )


async def greet(stream: WireStream, ours: Hello) -> tuple[Hello, FrameReader]:
    """Say and hear hello.

    Returns:
        The peer's, and the reader that may hold frames that came right behind it.

    Raises:
        PeerError: Something else than a fitting hello came; the peer has been told.
        Unavailable: Nothing came in `HELLO_S`, or the stream ended.
    """
    reader = FrameReader(stream)
    try:
        with trio.fail_after(HELLO_S):
            await stream.write(codec.encode_frame(ours))
            frame, _ = await reader.frame()
    except trio.TooSlowError:
        raise Unavailable("the peer did not say hello in time") from None
    try:
        return _fitting(frame, ours), reader
    except HelloMismatch as error:
        await say_goodbye(stream, error.fault, str(error))
        raise
    except PeerError as error:
        await say_goodbye(stream, Fault.PROTOCOL, str(error))
        raise


async def say_goodbye(stream: WireStream, fault: Fault, reason: str) -> None:
    """Tell the peer why, and wait a moment for it to read that: a reset would drop it."""
    detail = reason.encode()[:200].decode(errors="ignore")
    frame = ErrorFrame(job=NO_JOB, code=fault, detail=detail)
    with trio.move_on_after(1):
        try:
            await stream.write(codec.encode_frame(frame))
            await stream.close()
            while True:
                await stream.read()
        except SessionLost:
            return


def _fitting(frame: object, ours: Hello) -> Hello:
    if isinstance(frame, ErrorFrame):
        said = printable(frame.detail) or f"fault {frame.code}"
        raise PeerError(f"the peer refused the session: {said}")
    if not isinstance(frame, Hello):
        raise PeerError(f"{type(frame).__name__} came instead of a hello")
    check_hello(ours, frame)
    return frame
