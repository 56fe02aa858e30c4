"""From settings to the storage thread: spool, journal, and a chain in memory for when the disk
takes nothing."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from edgewarden.ports import Clock, Signer
from edgewarden.probe.disk import filesystem_bytes
from edgewarden.record.aside import FOLDER as ASIDE
from edgewarden.record.fresh import Fresh
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.memory import MemoryChain
from edgewarden.record.quota import Cap, Quotas, cap_of
from edgewarden.record.refuge import Known, Refuge
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.record.wear import Wear
from edgewarden.settings.schema import Settings


def cap_for(settings: Settings) -> Cap:
    """What the spool of this start may hold. The disk is asked here, once: a number that moved
    while link runs would be another one for each who goes by it."""
    kept, folder = settings.spool, Path(settings.paths.state, FOLDER)
    return cap_of(kept.cap_bytes, kept.cap_percent, filesystem_bytes(str(folder)))


def build_storage(
    settings: Settings, cap: Cap, device: str, who: Introduction, report_key: Signer, clock: Clock
) -> StorageThread:
    """The storage of one start; nothing is opened before its ``start``."""
    state, kept = Path(settings.paths.state), settings.spool
    wear, fresh = Wear(), Fresh()
    quotas = Quotas(kept.alarm_percent, kept.audit_percent, kept.free_percent)

    def open_journal(known: Known = MappingProxyType({})) -> Journal:
        spool = DiskSpool(state / FOLDER, cap.size_bytes, quotas, known)
        return Journal(spool, device, clock, report_key, wear, fresh)

    chain = MemoryChain(device, clock, report_key, who)
    return StorageThread(
        open_journal,
        who,
        clock,
        bulk_commit_s=kept.bulk_commit_s,
        bulk_commit_bytes=kept.bulk_commit_bytes,
        aside=state / ASIDE,
        refuge=Refuge(chain, state, open_journal, clock),
        wear=wear,
        fresh=fresh,
    )
