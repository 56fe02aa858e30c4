"""The verifier's word to a gateway: up to which record of each class it has believed and stored.

A gateway whose broker cannot be believed lets go of a record at this word alone (wire/
acknowledgement.py, ADR 40). So it is said after the commit that stored what it speaks of, to every
gateway whose records were in that commit, duplicates and refused ones too: a word that was lost is
said again when the gateway sends again.

How far a class has come: to its head, or to the end of what is stored in front of the first gap
that may still be filled. A gap may not be filled any more when a signed gap record explains it, or
when it ends at or below what the gateway's own newest status calls released (it cannot send that
again; the gap stays on the books). That number is remembered while this process lives: after a
restart a gateway with such a gap waits for its next session.

Of a chain in memory that stands open the newest runs are named: a record that its gateway gave up
there is told by nobody before the chain ends, so one number could not pass it.

    Word(db, signer, "main").say(["gw-demo"])  ->  [Outgoing("ew/1/main/gw-demo/e/ack", ...)]
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from edgewarden.ports import Signer
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import (
    MAX_RUNS,
    RUNS_BACK,
    Acknowledgement,
    InMemory,
    Upto,
    encode_acknowledgement,
)
from edgewarden.wire.record import RecordClass
from edgewarden.wire.topics import Topic
from edgewarden_fleet.store import gaps, memory, records
from edgewarden_fleet.verify.attest import Outgoing


class Word:
    """See the module's docstring. Used by the ingest thread alone."""

    def __init__(
        self,
        db: sqlite3.Connection,
        signer: Signer,
        tenant: str,
        released: Mapping[tuple[str, RecordClass], int],
    ) -> None:
        self._db = db
        self._signer = signer
        self._tenant = tenant
        self._released = released

    def say(self, devices: Iterable[str]) -> list[Outgoing]:
        """One message for each device of which anything is stored."""
        out = []
        for device in sorted(set(devices)):
            upto = {c: u for c in RecordClass if (u := self._upto(device, c)) is not None}
            in_memory = self._in_memory(device)
            if upto or in_memory is not None:
                said = Acknowledgement(self._tenant, device, upto, in_memory)
                out.append(self._message(said))
        return out

    def _in_memory(self, device: str) -> InMemory | None:
        kid = memory.open_chain(self._db, device)
        if kid is None:
            return None
        return InMemory(kid, tuple(memory.runs(self._db, device, kid, RUNS_BACK)[-MAX_RUNS:]))

    def _upto(self, device: str, record_class: RecordClass) -> Upto | None:
        head = records.chain_of(self._db, device, record_class).head_seq
        released = self._released.get((device, record_class), 0)
        end = gaps.end_before(self._db, device, record_class, released)
        return None if end is None else Upto(*end, head)

    def _message(self, said: Acknowledgement) -> Outgoing:
        topic = Topic(self._tenant, said.device, "e", "ack")
        data = cose.seal(
            encode_acknowledgement(said),
            cose.ContentType.ACKNOWLEDGEMENT,
            self._signer.kid,
            self._signer.sign,
        )
        return Outgoing(str(topic), data)
