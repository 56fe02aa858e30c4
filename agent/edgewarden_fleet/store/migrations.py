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

CONTINUITY = """
CREATE TABLE continuity (
    device TEXT NOT NULL, step INTEGER NOT NULL, token BLOB NOT NULL, mark BLOB NOT NULL,
    secret_id BLOB NOT NULL, presented_utc_s REAL NOT NULL, PRIMARY KEY (device, step)
) STRICT;

CREATE TABLE continuity_floor (
    nonce BLOB PRIMARY KEY, device TEXT NOT NULL, step INTEGER NOT NULL
) STRICT;
CREATE INDEX continuity_floor_device ON continuity_floor (device);

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, kind TEXT NOT NULL, why TEXT NOT NULL,
    since_utc_s REAL NOT NULL, lifted_utc_s REAL, lifted_why TEXT
) STRICT;
CREATE UNIQUE INDEX quarantine_open ON quarantine (device) WHERE lifted_utc_s IS NULL;
"""

REFERENCES = """
CREATE TABLE reference_set (
    id INTEGER PRIMARY KEY, set_id BLOB NOT NULL UNIQUE, data BLOB NOT NULL, sources TEXT NOT NULL,
    added_utc_s REAL NOT NULL
) STRICT;
"""

LINEAGE = """
CREATE TABLE tpm_lineage (
    device TEXT PRIMARY KEY, ek_name BLOB NOT NULL UNIQUE, ek_public BLOB NOT NULL,
    tls_public BLOB NOT NULL, vouched_by TEXT NOT NULL
) STRICT;
"""

APPRAISED = """
CREATE TABLE appraised (
    result INTEGER PRIMARY KEY, device TEXT NOT NULL, facts BLOB NOT NULL
) STRICT;
CREATE INDEX appraised_device ON appraised (device, result);

CREATE TABLE issuing (device TEXT PRIMARY KEY, certificate BLOB NOT NULL) STRICT;

CREATE TABLE late_result (
    device TEXT NOT NULL, seq INTEGER NOT NULL, evidence BLOB NOT NULL, data BLOB NOT NULL,
    facts BLOB NOT NULL, overall TEXT NOT NULL, made_utc_s REAL NOT NULL, age_s REAL,
    received_utc_s REAL NOT NULL, PRIMARY KEY (device, seq)
) STRICT;
"""

REPLACED = """
CREATE TABLE replaced (
    device TEXT NOT NULL, name TEXT NOT NULL UNIQUE, why TEXT NOT NULL, at_utc_s REAL NOT NULL
) STRICT;
"""

ANCHORS = """
CREATE TABLE anchor (
    device TEXT NOT NULL, boot_id BLOB NOT NULL, boot_ns INTEGER NOT NULL, utc_ns INTEGER NOT NULL,
    uncertainty_ms INTEGER NOT NULL, source TEXT NOT NULL, PRIMARY KEY (device, boot_id, boot_ns)
) STRICT;
"""

BRANCHES = """
CREATE TABLE open_chain (
    device TEXT NOT NULL, class INTEGER NOT NULL, PRIMARY KEY (device, class)
) STRICT;

CREATE TABLE aside (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, class INTEGER NOT NULL, seq INTEGER NOT NULL,
    hash BLOB NOT NULL, received_utc_s REAL NOT NULL, aside_utc_s REAL NOT NULL, data BLOB NOT NULL
) STRICT;
CREATE INDEX aside_device ON aside (device, class, seq);
"""

BOARDS = """
CREATE TABLE board (device TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
"""

SUBMODULES = """
CREATE TABLE submodule (
    device TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, key BLOB NOT NULL,
    lineage INTEGER NOT NULL, data BLOB NOT NULL, seq INTEGER NOT NULL,
    received_utc_s REAL NOT NULL, PRIMARY KEY (device, name, digest)
) STRICT;
"""

QUALITY = """
ALTER TABLE reading ADD COLUMN quality TEXT NOT NULL DEFAULT 'good';
"""

MEMORY = """
CREATE TABLE memory_chain (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, kid BLOB NOT NULL, cose_key BLOB NOT NULL,
    boot_id BLOB NOT NULL, boot_ns INTEGER NOT NULL, head_seq INTEGER NOT NULL,
    head_hash BLOB NOT NULL, ended_seq INTEGER NOT NULL, behind INTEGER NOT NULL,
    opened_utc_s REAL NOT NULL, UNIQUE (device, kid)
) STRICT;

CREATE TABLE memory_record (
    id INTEGER PRIMARY KEY, device TEXT NOT NULL, kid BLOB NOT NULL, seq INTEGER NOT NULL,
    hash BLOB NOT NULL, prev BLOB NOT NULL, class INTEGER NOT NULL, kind TEXT NOT NULL,
    received_utc_s REAL NOT NULL, data BLOB NOT NULL, UNIQUE (device, kid, seq)
) STRICT;
"""

STEPS = (
    TPM,
    CONTINUITY,
    REFERENCES,
    LINEAGE,
    APPRAISED,
    REPLACED,
    ANCHORS,
    BRANCHES,
    BOARDS,
    SUBMODULES,
    QUALITY,
    MEMORY,
)
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
