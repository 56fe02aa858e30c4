"""How the store grew: version 2 is schema.DDL, and each step here makes the next version.

A new store runs through all of them, so that an old store and a new one are the same in the end. A
step only adds tables: what stands in a store is evidence, and no upgrade rewrites it.
"""

from __future__ import annotations

BASE = 2
"""The version that schema.DDL makes."""

TPM = """
CREATE TABLE enrolled_tpm (
    device TEXT PRIMARY KEY, ak_public BLOB NOT NULL UNIQUE, enrolled_utc_s REAL NOT NULL
) STRICT;

CREATE TABLE tpm_state (
    device TEXT PRIMARY KEY, reset_count INTEGER NOT NULL, clock_ms INTEGER NOT NULL,
    boot_id BLOB NOT NULL, ak_public BLOB NOT NULL, tls_public BLOB NOT NULL,
    certify BLOB NOT NULL, certify_signature BLOB NOT NULL, pcrs BLOB, seen_utc_s REAL NOT NULL
) STRICT;

CREATE TABLE ask_whole (device TEXT PRIMARY KEY) STRICT;
"""

STEPS = (TPM,)
"""In order; appended to, never changed."""
VERSION = BASE + len(STEPS)
"""user_version of the file. A newer file is refused, never guessed at."""


def statements(version: int) -> list[str]:
    """What brings a store from a version to VERSION."""
    return [
        statement
        for step in STEPS[version - BASE :]
        for statement in step.split(";\n")
        if statement.strip()
    ]
