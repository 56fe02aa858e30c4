"""Records for tests that look at the spool alone: any bytes do."""

from __future__ import annotations

from edgewarden.ports import Spool, Stored


def made(spool: Spool, record_class: int, size: int = 100) -> Stored:
    """The next record of a class, recognisable by its bytes."""
    seq = spool.heads()[record_class][0] + 1
    text = f"{record_class}/{seq}/".encode()
    return Stored(record_class, seq, text + b"." * (size - len(text)))


def fill(spool: Spool, record_class: int, count: int, size: int = 100) -> list[Stored]:
    """Put records, each a commit of its own, and return them."""
    records = []
    for _ in range(count):
        record = made(spool, record_class, size)
        spool.put([record])
        records.append(record)
    return records
