"""Whom the broker lets speak: its access list kept equal to the registry.

Mosquitto's dynamic-security plugin holds a client and a role for each gateway that is enrolled and
not revoked; everybody else may connect and neither say nor hear anything. Removing a client ends
its session at once, which nothing else of Mosquitto 2 does short of a restart: a reloaded
revocation list leaves sessions up (measured, 2.0.11).

Decides which commands make the broker's list the registry's. Rules, in order:

1. after every connect, and RELIST_S after the last time: ask for the broker's list
2. on it and not in the registry (or revoked there)     → removed, client first: that ends the
   session; the roles after it
3. in the registry and not on it                        → role, then client; by the name of the
   board (wire/topics.py): a replaced board's is another than its successor's
   on it with another role (an older version's)         → removed, then as 3
4. each answer is followed by a new list: what the broker says counts, not what it was told
5. no answer within ANSWER_S: the plugin is not there. Said once, and again after every connect;
   then the access list in a file is kept instead (access_list.py)

6. who is revoked while an answer is awaited is ended at once: the plugin's answers come behind the
   records that wait for us at the broker, minutes of them after an outage

Left to others: sending (session.py), believing (verify/: a broker that ignores all of this gains
nothing, a revoked gateway's records are refused there).

    admission = Admission("main", access_list); admission.connected()
    admission.due(db, now_mono_s)     -> messages to send
    admission.take(payload)
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Mapping

from edgewarden_fleet.ca.broker import gateway_acls, role_of
from edgewarden_fleet.ca.certificates import FLEET_CN
from edgewarden_fleet.ingest.access_list import AccessList
from edgewarden_fleet.store.registry import sessions
from edgewarden_fleet.verify.attest import Outgoing

COMMANDS = "$CONTROL/dynamic-security/v1"
RESPONSES = f"{COMMANDS}/response"
PAGE = 1000
"""Names in one answer: 64 bytes each, below the broker's packet limit."""
AT_ONCE = 100
"""Gateways changed by one message: a role is 600 bytes."""
RELIST_S = 60.0
"""A person may change the plugin's list by hand; a minute is soon enough to put it right."""
ANSWER_S = 5.0
LOOK_S = 0.5
"""Between two looks for who was revoked while an answer is awaited; nobody may be heard longer than
two seconds after it."""

Command = dict[str, object]

log = logging.getLogger("edgewarden_fleet.broker")


class Admission:
    """One broker's list. Every method but ``connected`` on one thread."""

    def __init__(self, tenant: str, access: AccessList) -> None:
        self._tenant = tenant
        self._access = access
        self._fresh = False
        self._there: dict[str, list[str]] | None = None
        self._listing: dict[str, list[str]] = {}
        self._asked_mono_s: float | None = None
        self._listed_mono_s = 0.0
        self._version: object = None
        self._gone: set[str] = set()
        self._looked_mono_s = 0.0
        self.absent = False
        """No plugin answers."""

    def connected(self) -> None:
        """The broker session is new: ask again. Any thread."""
        self._fresh = True

    def admits(self, session: str) -> bool:
        """Whether the broker has said that it lets this board speak; True where none decides."""
        there = self._there or {}
        return self.absent or there.get(session) == [role_of(session)]

    def due(self, db: sqlite3.Connection, now_mono_s: float) -> list[Outgoing]:
        """What is to be sent now."""
        if self.absent:
            self._access.follow(db, now_mono_s)
        if self._fresh:
            self._fresh, self._there, self._asked_mono_s = False, None, None
            self._gone = sessions(db)[1]
            return self._list(0, now_mono_s)
        if self._asked_mono_s is not None:
            if now_mono_s - self._asked_mono_s >= ANSWER_S and not self.absent:
                self._silent()
            return self._end(db, now_mono_s)
        if self._there is None:
            return []
        version = db.execute("PRAGMA data_version").fetchone()[0], db.total_changes
        if version != self._version:
            wanted, self._gone = sessions(db)
            commands = changes(self._tenant, wanted, self._there)
            if commands:
                return self._send(commands, now_mono_s)
            self._version = version
        if now_mono_s - self._listed_mono_s >= RELIST_S:
            return self._list(0, now_mono_s)
        return []

    def _end(self, db: sqlite3.Connection, now_mono_s: float) -> list[Outgoing]:
        """Rule 6."""
        if now_mono_s - self._looked_mono_s < LOOK_S:
            return []
        self._looked_mono_s = now_mono_s
        ended = sorted(sessions(db)[1] - self._gone)[:AT_ONCE]
        self._gone |= set(ended)
        commands: list[Command] = [{"command": "deleteClient", "username": n} for n in ended]
        return [_message(commands)] if commands else []

    def take(self, payload: bytes, now_mono_s: float) -> list[Outgoing]:
        """An answer of the plugin; what is not one is passed over."""
        answers = _answers(payload)
        if not answers or self._asked_mono_s is None:
            return []
        self.absent = False
        self._asked_mono_s = None
        for one in answers:
            error = one.get("error")
            if error is not None and one.get("command") != "deleteRole":
                log.warning("broker refuses command=%s error=%r", one.get("command"), error)
        data = answers[0].get("data")
        if answers[0].get("command") != "listClients" or not isinstance(data, dict):
            return self._list(0, now_mono_s)
        page = _clients(data)
        before = len(self._listing)
        self._listing.update(page)
        total = data.get("totalCount")
        if len(self._listing) > before and isinstance(total, int) and len(self._listing) < total:
            return self._list(len(self._listing), now_mono_s)
        self._listing.pop(FLEET_CN, None)
        self._there, self._version = self._listing, None
        self._listed_mono_s = now_mono_s
        return []

    def _list(self, offset: int, now_mono_s: float) -> list[Outgoing]:
        if offset == 0:
            self._listing = {}
        wanted: Command = {"command": "listClients", "verbose": True, "count": PAGE}
        return self._send([{**wanted, "offset": offset}], now_mono_s)

    def _send(self, commands: list[Command], now_mono_s: float) -> list[Outgoing]:
        self._asked_mono_s = now_mono_s
        return [_message(commands)]

    def _silent(self) -> None:
        self.absent = True
        log.warning(
            "the broker has no dynamic-security plugin code=EW-NET-022 next=%r",
            "a revoked gateway's session ends when the broker reads its access list again",
        )


def _message(commands: list[Command]) -> Outgoing:
    return Outgoing(COMMANDS, json.dumps({"commands": commands}).encode())


def changes(
    tenant: str, wanted: Mapping[str, str], there: Mapping[str, Collection[str]]
) -> list[Command]:
    """Commands that make ``there`` into ``wanted``; removals first, AT_ONCE gateways at most.

    Args:
        tenant: the fleet's.
        wanted: names of boards that may speak -> the device of each.
        there: client -> its roles, as the broker says.
    """
    right = {name for name, roles in there.items() if list(roles) == [role_of(name)]}
    gone = sorted(name for name in there if name not in wanted or name not in right)
    new = sorted(name for name in wanted if name not in right)
    commands: list[Command] = []
    for name in gone[:AT_ONCE]:
        commands.append({"command": "deleteClient", "username": name})
        commands += [{"command": "deleteRole", "rolename": role} for role in there[name]]
    for name in new[:AT_ONCE]:
        role = role_of(name)
        # What an interrupted change left; where there is none, an error that changes nothing.
        commands.append({"command": "deleteRole", "rolename": role})
        acls = gateway_acls(tenant, wanted[name])
        commands.append({"command": "createRole", "rolename": role, "acls": acls})
        roles = [{"rolename": role}]
        commands.append({"command": "createClient", "username": name, "roles": roles})
    return commands


def _clients(data: dict[str, object]) -> dict[str, list[str]]:
    """Name -> roles of one page; what cannot be read has no role."""
    clients = data.get("clients")
    out: dict[str, list[str]] = {}
    for one in clients if isinstance(clients, list) else ():
        name = one.get("username") if isinstance(one, dict) else None
        if isinstance(name, str):
            roles = one.get("roles")
            out[name] = [
                str(r.get("rolename"))
                for r in (roles if isinstance(roles, list) else ())
                if isinstance(r, dict)
            ]
    return out


def _answers(payload: bytes) -> list[dict[str, object]]:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return []
    answers = body.get("responses") if isinstance(body, dict) else None
    if not isinstance(answers, list) or not all(isinstance(a, dict) for a in answers):
        return []
    return answers
