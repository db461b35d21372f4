"""A home directory: where its files are, and which one process owns it.

Two processes that sign with one key can promise the same deposit twice, so whoever signs or writes
the store holds an exclusive lock.  The others hand over through the control socket, read, or wait.
"""

import fcntl
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import ConfigError, Unavailable


class HomeBusy(Unavailable):
    """Another process owns the home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a home's lock."""

    pid: int
    purpose: str
    """The verb: `serve`, `submit`…"""

    @property
    def stays(self) -> bool:
        """Whether it will own the home until somebody stops it."""
        return self.purpose in ("serve", "gateway")


@dataclass(frozen=True, slots=True)
class Home:
    """The paths inside one home directory."""

    path: Path

    @property
    def keystore(self) -> Path:
        """The encrypted session key."""
        return self.path / "keystore.json"

    @property
    def store(self) -> Path:
        """The SQLite database of everything that must survive."""
        return self.path / "node.sqlite"

    @property
    def transcripts(self) -> Path:
        """Folder of the jobs' transcripts and disclosure files."""
        return self.path / "transcripts"

    @property
    def files(self) -> Path:
        """Folder of manifests and tokenizers, by hash."""
        return self.path / "files"

    @property
    def socket(self) -> Path:
        """The owner's control socket."""
        return self.path / "control.sock"

    @property
    def lock(self) -> Path:
        """The file whose lock is the ownership of the home."""
        return self.path / "lock"

    def check(self) -> None:
        """Refuse a home that was not made, or that others may enter.

        Raises:
            ConfigError: With the command that mends it.
        """
        try:
            mode = self.path.stat().st_mode
        except OSError:
            raise ConfigError(
                f"no home at {self.path}", hint=f"node init --home {self.path}"
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may enter {self.path}", hint=f"chmod 700 {self.path}")

    @contextmanager
    def own(self, purpose: str) -> Iterator[None]:
        """Own the home, or say at once who does.

        Raises:
            HomeBusy: Another process owns it.
            ConfigError: There is no such home, or it can't be written.
        """
        with self._lock_file() as descriptor:
            if not _try_lock(descriptor):
                raise self._busy(_read_owner(descriptor))
            self._sign(descriptor, purpose)
            yield

    @asynccontextmanager
    async def own_within(
        self, wait_s: float, *, purpose: str, on_wait: Callable[[Owner], None]
    ) -> AsyncIterator[None]:
        """Own the home as soon as its owner is done, in the order of asking.

        Args:
            wait_s: How long to wait.
            purpose: The verb, for other processes' messages.
            on_wait: Called once if there is somebody to wait for.

        Raises:
            HomeBusy: It was not free in time, or its owner will not leave by itself.
            ConfigError: There is no such home, or it can't be written.
        """
        with self._lock_file() as descriptor:
            if not _try_lock(descriptor):
                owner = _read_owner(descriptor)
                if owner.stays:
                    raise self._busy(owner)
                on_wait(owner)
                await self._wait_for_lock(descriptor, wait_s)
            self._sign(descriptor, purpose)
            yield

    async def _wait_for_lock(self, descriptor: int, wait_s: float) -> None:
        import trio  # here, since commands that hand their work over need none of it

        with trio.move_on_after(wait_s) as scope:
            await trio.to_thread.run_sync(
                _lock_blocking, os.dup(descriptor), abandon_on_cancel=True
            )
        if scope.cancelled_caught:
            raise self._busy(_read_owner(descriptor))

    @contextmanager
    def _lock_file(self) -> Iterator[int]:
        self.check()
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"can't write {self.lock}: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _sign(self, descriptor: int, purpose: str) -> None:
        try:
            _write_owner(descriptor, purpose)
        except OSError as error:
            raise ConfigError(f"can't write {self.lock}: {error.strerror}") from error

    def _busy(self, owner: Owner) -> HomeBusy:
        return HomeBusy(
            f"{self.path} is in use by `node {owner.purpose}` (process {owner.pid})",
            hint="use another home (--home), or stop that process",
        )


def locate(flag: str | None, environ: Mapping[str, str]) -> Home:
    """The home that a command is about: flag, GPUNODE_HOME, or the user's data directory."""
    chosen = flag or environ.get("GPUNODE_HOME")
    if chosen:
        return Home(Path(chosen).expanduser().absolute())
    from platformdirs import user_data_path

    return Home(user_data_path("gpunode"))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_blocking(duplicate: int) -> None:
    """Wait for the lock of a duplicated descriptor, in a thread.

    The kernel wakes waiters in order and at once; polling would do neither.  The lock lives as long
    as the original descriptor: if nobody waits any more, closing the duplicate gives it back.
    """
    try:
        fcntl.flock(duplicate, fcntl.LOCK_EX)
    finally:
        os.close(duplicate)


def _write_owner(descriptor: int, purpose: str) -> None:
    note = json.dumps({"pid": os.getpid(), "purpose": purpose}).encode()
    os.pwrite(descriptor, note, 0)
    os.ftruncate(descriptor, len(note))


def _read_owner(descriptor: int) -> Owner:
    """What the owner wrote; it may not have come to that yet."""
    try:
        note: dict[str, Any] = json.loads(os.pread(descriptor, 1024, 0))
        return Owner(pid=int(note["pid"]), purpose=str(note["purpose"]))
    except (ValueError, KeyError, TypeError):
        return Owner(pid=0, purpose="another command")


def say_waiting(owner: Owner) -> None:
    """Tell the person at the terminal what a command waits for."""
    sys.stderr.write(f"waiting for `node {owner.purpose}` (process {owner.pid}) to finish…\n")
