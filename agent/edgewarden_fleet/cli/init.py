"""`edgewarden-fleet init DIR`: everything the operator's side needs, made once."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden.wire.record import is_identifier
from edgewarden_fleet.ca import folder
from edgewarden_fleet.ca.settings import (
    DEFAULT_REQUIRED,
    Attestation,
    Endpoint,
    FleetSettings,
)
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store.schema import open_store

_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _TRIES = 10_000, 1000
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("dir", type=Path, help="folder to make; must not exist or be empty")
    command.add_argument("--tenant", default="main")
    command.add_argument("--broker-host", default="127.0.0.1", help="name or address gateways use")
    command.add_argument("--broker-port", type=_port, default=8883, help="0 picks a free one")
    command.add_argument("--enroll-host", help="default: the broker's")
    command.add_argument("--enroll-port", type=_port, default=8843, help="0 picks a free one")
    command.add_argument("--console-port", type=_port, default=8880, help="0 picks a free one")
    command.add_argument("--attestation-period", type=int, default=300, metavar="SECONDS")
    command.add_argument(
        "--broker-user", default="auto", help="whom a broker started by root becomes"
    )
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Exit:
    """Make the folder and its empty store; say where things are."""
    if not is_identifier(arguments.tenant):
        raise _wrong(f"tenant {arguments.tenant!r}", "use a-z, 0-9 and -, at most 63 characters")
    host = arguments.broker_host
    enroll_host = arguments.enroll_host or host
    for name in (host, enroll_host):
        if not _HOST.fullmatch(name):
            raise _wrong(f"host {name!r}", "give a host name or an address")
    if not 1 <= arguments.attestation_period <= 86400:
        raise _wrong("the attestation period", "give 1 to 86400 seconds")
    ports = _free_ports([arguments.broker_port, arguments.enroll_port, arguments.console_port])
    wanted = FleetSettings(
        arguments.tenant,
        Endpoint(host, ports[0]),
        Endpoint(enroll_host, ports[1]),
        Endpoint("127.0.0.1", ports[2]),
        Attestation(arguments.attestation_period, 120, DEFAULT_REQUIRED),
    )
    made, user = folder.create(arguments.dir, wanted, time.time(), arguments.broker_user)
    open_store(made.database).close()
    if user == "root" and arguments.broker_user == "auto" and os.geteuid() == 0:
        output.tell(
            "note: the broker will stay root, because its own account cannot reach the folder;"
            " use a folder below one that everybody may enter, or --broker-user mosquitto"
        )
    _report(arguments, made, user, wanted)
    return Exit.OK


def _report(
    arguments: argparse.Namespace, made: folder.FleetFolder, user: str, wanted: FleetSettings
) -> None:
    if arguments.json:
        output.say_json(
            {
                "schema": "edgewarden-fleet.init/1",
                "dir": str(made.path),
                "mosquitto_conf": str(made.mosquitto_conf),
                "broker_user": user,
                "broker": {"host": wanted.broker.host, "port": wanted.broker.port},
                "enroll": f"https://{wanted.enroll.host}:{wanted.enroll.port}",
                "console": f"http://{wanted.console.host}:{wanted.console.port}/",
            }
        )
        return
    output.say(f"made {made.path}")
    output.say(f"1. start the broker   mosquitto -c {made.mosquitto_conf}")
    output.say(f"2. start the fleet    edgewarden-fleet serve {made.path}")
    output.say(f"3. enrol a gateway    edgewarden-fleet token new --dir {made.path} --device ID")
    output.say(f"keep {made.path / 'ca/root-key.pem'} off this machine; nothing above needs it")


def _free_ports(wanted: list[int]) -> list[int]:
    """Replace each 0 by a port that is free now; all are held open until all are chosen."""
    with ExitStack() as held:
        return [port or _free_port(held, wanted) for port in wanted]


def _free_port(held: ExitStack, others: list[int]) -> int:
    """Where there are others, none that the kernel gives to whoever asks for any: they are written
    down for good, and a broker that is away for a moment found its own taken by a client."""
    kernels = range(32768, 61000)
    with suppress(OSError, ValueError):
        first, last = _KERNELS.read_text().split()
        kernels = range(int(first), int(last) + 1)
    free = [port for port in range(_LOWEST, 1 << 16) if port not in kernels]
    for _ in range(_TRIES):
        port = secrets.choice(free or range(_LOWEST, 1 << 16))
        if port in others:
            continue
        with suppress(OSError):
            held.enter_context(socket.create_server(("127.0.0.1", port)))
            return port
    raise _wrong("0 for a port: none was found free", "name the ports")


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0-65535)")
    return int(text)


def _wrong(what: str, next_step: str) -> OperatorFault:
    return OperatorFault(f"{what} cannot be", code="EW-SET-024", next_step=next_step)
