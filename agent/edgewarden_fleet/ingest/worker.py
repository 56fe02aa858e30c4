"""The ingest worker: messages off a queue, verified in order, committed in groups, then
acknowledged.

One thread owns the store's writing connection. It takes what waits (up to GROUP messages), verifies
each inside one transaction, commits, and only then acknowledges to the broker and publishes what
the verdicts ask for, and, where gateways wait for it, how far each has come (verify/word.py). A
crash before the commit means the broker delivers again, with DUP set; a crash after it means a
duplicate that the chain recognises. Either way nothing acknowledged is lost.

A disk that refuses stops everything until it takes again: nothing is acknowledged meanwhile. A
message whose values the store refuses is that message's refusal (``internal_error``), so that one
captured gateway stops nobody but itself.

    worker = Worker(db, verifier, appraiser, send, clock, admission)
    worker.start(); ...; worker.stop()
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden_fleet.ingest.admission import RESPONSES, Admission
from edgewarden_fleet.store.schema import store_fault, transaction
from edgewarden_fleet.verify.attest import Appraiser, Outgoing
from edgewarden_fleet.verify.pipeline import Incoming, Verdict, Verifier
from edgewarden_fleet.verify.word import Word

GROUP = 128
"""Messages per commit: one fsync for all that waits, and a bound on what a crash repeats."""
QUEUE = 1024
"""Messages between the network thread and this one; beyond it TCP holds the broker back."""
TICK_S = 0.5
"""How often timers are looked at when nothing comes."""
RETRY_S = 2.0
"""Pause after the store refused: a full disk does not get better faster."""

log = logging.getLogger("edgewarden_fleet.ingest")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message and what acknowledges it (called after the commit, from the worker's thread)."""

    message: Incoming
    acknowledge: Callable[[], None]


class Worker:
    """See the module's docstring. ``offer`` may be called from any one other thread."""

    def __init__(
        self,
        db: sqlite3.Connection,
        verifier: Verifier,
        appraiser: Appraiser,
        send: Callable[[Outgoing], None],
        now_utc_s: Callable[[], float],
        admission: Admission,
        word: Word | None = None,
    ) -> None:
        self._db = db
        self._word = word
        self._verifier = verifier
        self._appraiser = appraiser
        self._send = send
        self._now = now_utc_s
        self._admission = admission
        self._queue: queue.Queue[Delivery] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._stopping = threading.Event()
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, delivery: Delivery) -> None:
        """Hand over one message; blocks while the queue is full, drops (unacknowledged) when
        stopping."""
        while not self._stopping.is_set():
            try:
                self._queue.put(delivery, timeout=TICK_S)
                return
            except queue.Full:
                continue

    def stop(self) -> None:
        """Finish the group under way and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            group: list[Delivery] = []
            while not self._stopping.is_set():
                group = group or self._next_group()
                try:
                    out = self._commit(group)
                except sqlite3.Error as fault:
                    error = store_fault(fault)
                    log.error("store refused error=%r code=%s", error.text, error.code)
                    self._stopping.wait(RETRY_S)
                    continue
                for delivery in group:
                    delivery.acknowledge()
                for message in out + self._admit(group):
                    self._send(message)
                group = []
        except (
            BaseException
        ) as fault:  # the composer ends the process: a dead worker verifies nothing
            self.failed = fault
            log.exception("ingest ended")

    def _next_group(self) -> list[Delivery]:
        group: list[Delivery] = []
        try:
            group.append(self._queue.get(timeout=TICK_S))
            while len(group) < GROUP:
                group.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return group

    def _commit(self, group: list[Delivery]) -> list[Outgoing]:
        out: list[Outgoing] = []
        heard: set[str] = set()
        with transaction(self._db):
            for delivery in group:
                if delivery.message.topic == RESPONSES:
                    continue
                verdict, messages = self._take(delivery.message)
                out.extend(messages)
                if verdict.device and "/r/" in delivery.message.topic:
                    heard.add(verdict.device)
                _tell(delivery.message, verdict)
            now = self._now()
            out.extend(self._appraiser.challenge_due(now))
            self._verifier.drop_overdue(now)
            if self._word is not None:
                out.extend(self._word.say(heard))
        return out

    def _admit(self, group: list[Delivery]) -> list[Outgoing]:
        """Keep the broker's list equal to the registry; after the commit, which may have changed
        it."""
        now_mono_s = time.monotonic()
        out: list[Outgoing] = []
        for delivery in group:
            if delivery.message.topic == RESPONSES:
                out += self._admission.take(delivery.message.payload, now_mono_s)
        return out + self._admission.due(self._db, now_mono_s)

    def _take(self, message: Incoming) -> tuple[Verdict, list[Outgoing]]:
        """Judge one message, whole or not at all."""
        now = self._now()
        self._db.execute("SAVEPOINT message")
        try:
            judged = self._judge(message, now)
        except Exception as fault:  # one message must not stop the others; this is our own mistake
            if isinstance(fault, EdgewardenError) or _of_the_store(fault):
                raise
            log.exception("a message could not be judged topic=%s", message.topic[:200])
            self._db.execute("ROLLBACK TO message")
            refusal = WireRefusal("internal_error", f"{type(fault).__name__} while judging")
            judged = self._verifier.refuse("", message, refusal, now), []
        self._db.execute("RELEASE message")
        return judged

    def _judge(self, message: Incoming, now: float) -> tuple[Verdict, list[Outgoing]]:
        name = message.topic.rpartition("/")[2]
        if name == "status":
            return self._appraiser.take_status(message, now)
        if name == "evidence":
            return self._appraiser.take_evidence(message, now)
        verdict = self._verifier.take(message, now)
        if verdict.introduced:
            return verdict, self._appraiser.challenge_soon(verdict.device, now)
        return verdict, []


def _of_the_store(fault: Exception) -> bool:
    """Is it the disk's or the file's fault, which passes for every message alike?

    What SQLite refuses because of the values it was given, it would refuse for ever.
    """
    return isinstance(fault, sqlite3.Error) and not isinstance(
        fault,
        (
            sqlite3.IntegrityError,
            sqlite3.DataError,
            sqlite3.ProgrammingError,
            sqlite3.InterfaceError,
            sqlite3.NotSupportedError,
        ),
    )


def _tell(message: Incoming, verdict: Verdict) -> None:
    if verdict.accepted:
        log.debug("accepted topic=%s outcome=%s", message.topic, verdict.outcome)
    elif verdict.outcome in ("duplicate", "pending"):
        log.info("%s topic=%s", verdict.outcome, message.topic)
    else:
        log.warning(
            "refused topic=%s reason=%s why=%r", message.topic[:200], verdict.outcome, verdict.why
        )
