"""The one tree of errors.  Library errors are mapped to these where the library is called.

Exit codes follow sysexits.h where it has a fitting one.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; `docs` and scripts rely on these numbers."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_PEERS = 69
    TRY_AGAIN = 75
    WALLET = 77
    CONFIG = 78
    INTERRUPTED = 130


class NodeError(Exception):
    """Anything that this program says to a person instead of showing a traceback."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        """
        Args:
            message: What went wrong, one sentence, without a full stop.
            hint: What to do about it: a command or a setting.
        """
        super().__init__(message)
        self.hint = hint


class PeerError(NodeError):
    """The other side broke the protocol: it loses its connection or its job."""

    exit_code = ExitCode.TRY_AGAIN


class DecodeError(PeerError):
    """Bytes that are not a message of this protocol."""


class SignatureError(PeerError):
    """A statement that its claimed signer did not sign."""


class Unavailable(NodeError):
    """Nothing is wrong here; the same call may succeed later."""

    exit_code = ExitCode.TRY_AGAIN


class SessionLost(Unavailable):
    """The connection to a peer ended, or the peer stopped answering."""


class NoPeers(Unavailable):
    """Nobody to ask, or nobody who meets the limits."""

    exit_code = ExitCode.NO_PEERS


class WalletError(NodeError):
    """The wallet refuses: no funds, no key, or a limit that the owner set."""

    exit_code = ExitCode.WALLET


class ConfigError(NodeError):
    """A setting, file or argument that can't be used as it stands."""

    exit_code = ExitCode.CONFIG


class UsageError(NodeError):
    """An argument that means nothing."""

    exit_code = ExitCode.USAGE


class CorruptState(NodeError):
    """The store contradicts itself, the chain or a peer's proof; going on could sign twice."""

    exit_code = ExitCode.CONFIG
