"""One line for a person about one event, and the names that make two events the same one.

The gateway's findings, the fleet's console and triage all read events through here, so that a
finding is called the same on the board and at the operator's desk.

    describe(event) == "denied: /mnt/apps/tool (sha256 9f86d081884c7d65)"
    describe(event) == "program runs from a folder everybody can write: /tmp/x"
    describe(event) == "gps: silent, no good frame for 10 s"
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.wire.facts import Event, Plain

SHOWN_DIGEST = 16
"""Hex digits: enough to find it in a list, short enough for a line of 80."""
MAX_LINE = 200

Subject = tuple[object, ...]


def describe(event: Event) -> str:
    """Return one line of at most MAX_LINE characters."""
    detail = event.detail
    told = _title(detail) or event.class_uid.name.lower().replace("_", " ")
    action, path = _text(detail, "action"), _text(_map(detail, "file"), "path")
    if path:
        digest = _map(detail, "file").get("sha256")
        short = f" (sha256 {digest.hex()[:SHOWN_DIGEST]})" if isinstance(digest, bytes) else ""
        told = f"{action or 'seen'}: {path}{short}"
    elif peer := _peer(detail):
        told = f"{action or 'seen'}: {peer}"
    elif device := _text(_map(detail, "peripheral_device"), "name"):
        parts = [_text(detail, "state"), _text(detail, "reason") or _title(detail)]
        told = f"{device}: {', '.join(p for p in parts if p)}"
    elif program := _program(_map(detail, "process")):
        code = _text(detail, "path") or _text(detail, "script")  # what it runs, where that matters
        told = f"{told}: {code or program}"
        if code and code != program:
            told = f"{told}, by {program}"
    repeated = detail.get("repeated")
    if isinstance(repeated, int):
        told = f"{told}, {repeated} more times"
    return told[:MAX_LINE]


def subject_of(event: Event) -> Subject:
    """Return what makes two events the same matter: everything but when, and which pid."""
    detail = event.detail
    file, process = _map(detail, "file"), _map(detail, "process")
    return (
        int(event.class_uid),
        event.activity_id,
        event.code,
        *(_text(detail, name) for name in ("action", "rule", "subject", "class")),
        _peer(detail),
        _title(detail),
        _text(file, "path"),
        file.get("sha256"),
        _text(_map(detail, "peripheral_device"), "name"),
        _program(process),
        *(_text(detail, name) for name in ("path", "script")),
        process.get("uid"),
    )


def times(event: Event) -> int:
    """How many occurrences an event stands for: 1, or the count that it tells."""
    repeated = event.detail.get("repeated")
    return repeated if isinstance(repeated, int) and repeated > 0 else 1


def _title(detail: Mapping[str, Plain]) -> str:
    """What an event calls itself: OCSF's finding_info.title, or our sensors' short words."""
    info = _text(_map(detail, "finding_info"), "title")
    what = _text(detail, "what")
    why = _text(detail, "why")
    return info or _text(detail, "title") or (f"{what}: {why}" if why else what)


def _peer(detail: Mapping[str, Plain]) -> str:
    """``tcp to 10.0.0.5 port 443, rule historian``; a flood's addresses are not its name."""
    direction = _text(detail, "direction")
    if not direction:
        return ""
    rule = _text(detail, "rule")
    if direction == "limit":
        return f"flood limit {rule}"
    outward = direction == "egress"
    where = _text(_map(detail, "dst_endpoint" if outward else "src_endpoint"), "ip")
    port = _map(detail, "dst_endpoint").get("port")
    named = f" port {port}" if isinstance(port, int) else ""
    told = f"{_text(detail, 'protocol')} {'to' if outward else 'from'} {where}{named}, rule {rule}"
    return f"{told} (by name)" if detail.get("by_name") is True else told


def _program(process: Mapping[str, Plain]) -> str:
    command = _text(process, "cmd_line").partition(" ")[0]
    return _text(process, "path") or command or _text(process, "name")


def _map(detail: Mapping[str, Plain], name: str) -> Mapping[str, Plain]:
    value = detail.get(name)
    return value if isinstance(value, dict) else {}


def _text(detail: Mapping[str, Plain], name: str) -> str:
    value = detail.get(name)
    return value if isinstance(value, str) else ""
