"""Moments as an operator types them: 2026-12-01, 2026-12-01T06:00Z, now, +14d, -2h.

A time without an offset is UTC: the fleet's times are, everywhere. A moment in the past is written
with its option, ``--at=-2h``: alone it would look like an option itself.

    moment("+2h", now_utc_s=0.0) == 7200
"""

from __future__ import annotations

from datetime import UTC, datetime

from edgewarden.errors import OperatorFault

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(text: str, now_utc_s: float) -> int:
    """Seconds since 1970 of what was typed.

    Raises:
        OperatorFault: EW-SET-024 for anything else.
    """
    if text == "now":
        return int(now_utc_s)
    digits = text[1:-1]
    if text[:1] in ("+", "-") and text[-1] in _UNITS_S and digits.isascii() and digits.isdigit():
        return max(0, int(now_utc_s) + int(text[0] + digits) * _UNITS_S[text[-1]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise OperatorFault(
            f"{text!r} is not a moment",
            code="EW-SET-024",
            next_step="write 2026-12-01, 2026-12-01T06:00Z, now, +14d or -2h",
        ) from None
    return max(0, int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()))
