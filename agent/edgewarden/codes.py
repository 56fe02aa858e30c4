"""The catalogue of EW codes: what each means, why it happens, what to do next. Works offline.

The entries are data in codes.toml beside this file, read when somebody asks (``edgewarden
explain``, tests), never on the way of a daemon: it would cost every process 60 KiB for texts that
only people read. A test holds the catalogue to the code strings of the source, in both directions.

    explain("EW-SET-004").title == "a setting has the wrong type"
"""

from __future__ import annotations

import re

from edgewarden.plain import dataclass

AREAS = {
    "NET": "network and broker",
    "ID": "identity and trust",
    "EXEC": "execution control",
    "POL": "the baseline of this system",
    "PROC": "processes and listeners",
    "USB": "USB devices and serial ports",
    "SER": "serial ports",
    "SET": "settings and policies",
    "SPL": "spool",
    "ATT": "attestation",
    "DEV": "devices behind the gateway",
    "WIRE": "refused messages",
    "HOST": "board and kernel",
    "AGT": "the agent itself",
}

CODE_FORM = re.compile(r"EW-[A-Z]+-[0-9]{3}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One code.

    Attributes:
        code: ``EW-AREA-NNN``.
        title: one line, as it would stand in a list.
        meaning: what is the case when this code appears.
        causes: the likely ones, most likely first; at least one.
        next_step: what to do now.
    """

    code: str
    title: str
    meaning: str
    causes: tuple[str, ...]
    next_step: str


def catalogue() -> dict[str, Entry]:
    """Return every code, in the order of its area and number.

    Raises:
        KeyError, TypeError: the data does not have the shape of ``Entry``: a defect of this
        program.
    """
    import pkgutil
    import tomllib

    data = pkgutil.get_data("edgewarden", "codes.toml") or b""
    found = {}
    for code, raw in sorted(tomllib.loads(data.decode("utf-8")).items()):
        if set(raw) != {"title", "meaning", "causes", "next"}:
            raise KeyError(f"codes.toml: {code} has not exactly title, meaning, causes, next")
        found[code] = Entry(code, raw["title"], raw["meaning"], tuple(raw["causes"]), raw["next"])
    return found


def explain(code: str) -> Entry | None:
    """Return the entry of a code however it was typed (``ew-set-4``, ``EW_SET_004``), or None."""
    return catalogue().get(normal(code))


def normal(typed: str) -> str:
    """The canonical spelling of a code as a person typed it; the text itself when it is none."""
    parts = re.split(r"[\s_.-]+", typed.strip().upper())
    if parts and parts[0] == "EW":
        parts = parts[1:]
    if len(parts) != 2 or not parts[1].isdecimal():
        return typed.strip().upper()
    return f"EW-{parts[0]}-{int(parts[1]):03}"


def nearest(typed: str) -> list[str]:
    """Up to three codes that may have been meant, the likeliest first."""
    import difflib

    return difflib.get_close_matches(normal(typed), list(catalogue()), n=3, cutoff=0.7)
