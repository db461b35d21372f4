"""The engine's loop: one thread that computes all jobs of one model in turns.

A turn reads one chunk of one waiting prompt, then makes one token of every running job.  So a long
prompt delays the others by a chunk at a time, and jobs join and leave between any two tokens.  With
no job to compute, it reads answers for the turns that may follow them.
"""

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from node.adapters.onnx.answers import Answers
from node.adapters.onnx.batch import Batch
from node.adapters.onnx.decoder import Decoder
from node.adapters.onnx.job import Job, Made
from node.adapters.onnx.prefixes import Prefixes
from node.errors import PeerError, Unavailable
from node.protocol.prefixes import BLOCK_TOKENS, COMPUTED_TOKENS_MIN

CHUNK_TOKENS: Final = 256
CHUNK_LOGITS_BYTES: Final = 64 * 1024 * 1024
"""Where logits come at all positions, as float32: a large vocabulary makes chunks shorter."""
CHUNK_TOKENS_MIN: Final = 16
AHEAD_TOKENS: Final = 64
"""A job that is so many ids ahead of its reader pauses until half of them are taken.  More than a
small model makes in `HAND_OVER_S`."""
HAND_OVER_S: Final = 0.01
"""How long tokens may wait for those after them, while there are more to come: waking the event
loop costs as much as a small model's token.  A job's first token and its end wait for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A job wants a slot."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Nobody reads the job any more."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A reader caught up: a paused job may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the loop."""


Command = Submit | Drop | Taken | Stop
Happened = tuple[Job, Made | Unavailable]
Deliver = Callable[[Sequence[Happened]], None]


class Loop:
    """Jobs of one decoder.  `run` belongs to one thread; `tell` may be called from any."""

    def __init__(
        self,
        decoder: Decoder[Any],
        *,
        slots: int,
        vocab: int,
        tokens_per_s_max: float,
        deliver: Deliver,
        prefixes: Prefixes | None = None,
        hand_over_s: float = HAND_OVER_S,
    ) -> None:
        """
        Args:
            decoder: What computes.
            slots: Jobs that are computed at once.
            vocab: Tokens in a row of logits.
            tokens_per_s_max: Most tokens per second of any one job; 0 for no limit.
            deliver: Called in the loop's thread with what happened to which job, in order.
            prefixes: What jobs leave to later ones; None: nothing.
            hand_over_s: How long what happened may be kept back, while the loop computes.
        """
        self._decoder = decoder
        self._slots = slots
        per_row = CHUNK_TOKENS if decoder.slices else CHUNK_LOGITS_BYTES // (4 * vocab)
        self._chunk = max(CHUNK_TOKENS_MIN, min(CHUNK_TOKENS, per_row))
        self._step_s = 1 / tokens_per_s_max if tokens_per_s_max > 0 else 0.0
        self._deliver = deliver
        self._prefixes = Prefixes(decoder, bytes_max=0) if prefixes is None else prefixes
        self._answers = Answers(decoder, self._prefixes)
        self._hand_over_s = hand_over_s
        self._happened: list[Happened] = []
        """Not delivered yet."""
        self._delivered_s = 0.0
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._batches: list[Batch[Job]] = []
        self._paused: list[Job] = []
        self._stopping = False
        self._next_step_s = 0.0

    def tell(self, command: Command) -> None:
        """Queue a command; it is heard within one turn."""
        self._commands.put(command)

    def run(self) -> None:
        """Until `Stop`."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """Hear what was told, waiting for it if there is no work; then work once for every job."""
        self._listen()
        self._admit()
        self._resume()
        if self._answers.waiting and not self._busy():
            self._hand_over()
            self._answers.read_block()
            return
        self._read_chunk()
        while True:
            stepped = self._step_all()
            self._happened += stepped
            late_s = time.monotonic() - self._delivered_s
            if late_s >= self._hand_over_s or any(_ends(event) for _, event in stepped):
                self._hand_over()
                return
            if not stepped or self._disturbed():
                return

    def _disturbed(self) -> bool:
        """Whether there may be more to do than the next token of the same jobs."""
        others = self._reading or self._waiting or self._paused or self._step_s
        return bool(others) or not self._commands.empty()

    def _hand_over(self) -> None:
        if self._happened:
            happened, self._happened = self._happened, []
            self._delivered_s = time.monotonic()
            self._deliver(happened)

    def _listen(self) -> None:
        """Take all commands; if there is nothing else to do now, wait for one."""
        wait_s = self._idle_s()
        if wait_s != 0.0:
            self._hand_over()
        while True:
            try:
                command = self._commands.get(block=wait_s != 0.0, timeout=wait_s)
            except queue.Empty:
                return
            self._obey(command)
            wait_s = 0.0

    def _idle_s(self) -> float | None:
        """Seconds that may be slept now; None to sleep until a command comes."""
        if self._reading or (self._waiting and self._active() < self._slots):
            return 0.0
        if any(map(_caught_up, self._paused)):
            return 0.0
        if any(batch.rows for batch in self._batches):
            return max(0.0, self._next_step_s - time.monotonic())
        return 0.0 if self._answers.waiting else None

    def _busy(self) -> bool:
        """Whether there is a prompt to be read, or a token to be made."""
        return bool(self._reading) or any(batch.rows for batch in self._batches)

    def _obey(self, command: Command) -> None:
        match command:
            case Submit(job=job):
                self._waiting.append(job)
            case Drop(job=job):
                self._drop(job)
            case Taken():
                pass  # `_resume` looks at every paused job
            case Stop():
                self._stopping = True
            case _:
                assert_never(command)

    def _drop(self, job: Job) -> None:
        if job in self._reading:
            self._keep(job)
        for line in (self._waiting, self._reading, self._paused):
            if job in line:
                line.remove(job)
        for batch in self._batches:
            batch.leave([job])
        self._answers.add(job)

    def _active(self) -> int:
        running = sum(len(batch.rows) for batch in self._batches)
        return running + len(self._reading) + len(self._paused)

    def _admit(self) -> None:
        while self._waiting and self._active() < self._slots:
            job = self._waiting.popleft()
            try:
                self._recall(job)
            except Unavailable as error:
                self._tell_first(job, error)
            else:
                self._reading.append(job)

    def _recall(self, job: Job) -> None:
        """Begin with what an earlier job has left; the rest is still to be read."""
        blocks = self._prefixes.find(job.request.owner, job.unread[:-COMPUTED_TOKENS_MIN])
        job.tokens_cached = len(blocks) * BLOCK_TOKENS
        job.unread = job.unread[job.tokens_cached :]
        # And a column for the first token that it writes.
        job.cache = self._decoder.begun(blocks, room=len(job.unread) + 1)

    def _keep(self, job: Job) -> None:
        """Leave what was read of its prompt to later jobs.

        What it writes, one at a time, may differ in its last bits from the same when it is read.
        """
        if job.cache is not None:
            self._prefixes.keep(job.request.owner, job.before[: job.cache.length], job.cache.cut)

    def _resume(self) -> None:
        for job in list(filter(_caught_up, self._paused)):
            self._paused.remove(job)
            job.paused = False
            self._enter(job)

    def _enter(self, job: Job) -> None:
        cache, job.cache = job.cache, None
        assert cache is not None
        batch = next((b for b in self._batches if b.fits(cache.length)), None)
        if batch is None:
            batch = Batch(self._decoder)
            self._batches.append(batch)
        batch.join(job, cache)

    def _read_chunk(self) -> None:
        """Compute the next part of one prompt; prompts take turns."""
        if not self._reading:
            return
        job = self._reading.popleft()
        size = _run_tokens(len(job.unread), most=self._chunk)
        part, job.unread = job.unread[:size], job.unread[size:]
        assert job.cache is not None
        try:
            ids = np.array([part], dtype=np.int64)
            logits, job.cache = self._decoder.forward(ids, job.cache, last=True)
        except Unavailable as error:
            self._tell_first(job, error)
            return
        if job.unread:
            self._reading.append(job)
            return
        made = _drawn(job, logits[0, -1])
        self._tell_first(job, made)
        self._keep(job)
        if not _ends(made):
            self._enter(job)

    def _tell_first(self, job: Job, event: Made | Unavailable) -> None:
        """Somebody waits for it: not for everybody's next token as well."""
        self._happened.append((job, event))
        self._hand_over()

    def _step_all(self) -> list[Happened]:
        """One token of every running job, no more often than the operator allows."""
        if not self._batches:
            return []
        now_s = time.monotonic()
        if now_s < self._next_step_s:
            return []
        self._next_step_s = max(self._next_step_s + self._step_s, now_s - self._step_s)
        happened = [event for batch in self._batches for event in self._step(batch)]
        self._batches = [batch for batch in self._batches if batch.rows]
        return happened

    def _step(self, batch: Batch[Job]) -> list[Happened]:
        for job in [job for job in batch.rows if job.made - job.taken >= AHEAD_TOKENS]:
            job.cache = batch.take(job)
            self._paused.append(job)
            # Set before `taken` is looked at again, as the reader takes before it looks at this:
            # so one of the two threads always notices.
            job.paused = True
        if not batch.rows:
            return []
        try:
            logits = batch.step([job.unread[0] for job in batch.rows])
        except Unavailable as error:
            failed: list[Happened] = [(job, error) for job in batch.rows]
            batch.leave(batch.rows)
            return failed
        made = [(job, _drawn(job, row)) for job, row in zip(batch.rows, logits, strict=True)]
        batch.leave([job for job, event in made if _ends(event)])
        return made


def _run_tokens(unread: int, *, most: int) -> int:
    """How many to read next.

    None is left alone: a single one may be computed by another kernel, and differ in its last bits.
    """
    return most - 1 if unread == most + 1 else most


def _drawn(job: Job, logits: NDArray[Any]) -> Made | Unavailable:
    """The job's next token; a tokenizer or grammar that fails ends this job, and no other."""
    try:
        return job.draw(logits)
    except (PeerError, Unavailable) as error:
        return Unavailable(str(error))


def _ends(event: Made | Unavailable) -> bool:
    return isinstance(event, Unavailable) or event.finish is not None


def _caught_up(job: Job) -> bool:
    return job.made - job.taken <= AHEAD_TOKENS // 2
