"""Real proxies from Debian, each on a free port of loopback, stopped by its pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from hw.rigs.ports import free_port
from tests.waiting import wait_until


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """A daemon in the foreground, from when it accepts connections until it has ended."""
    program = shutil.which(command[0], path=f"{os.defpath}:/usr/sbin:/sbin")
    assert program is not None, f"{command[0]} is not installed"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [program, *command[1:]], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )

    def accepts() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return True
        return False

    try:
        wait_until(accepts)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


@contextlib.contextmanager
def tinyproxy(
    folder: Path, allowed_port: int, who: tuple[str, str] | None = None
) -> Iterator[tuple[int, Path]]:
    """(port, log) of an HTTP proxy that lets CONNECT to one port out."""
    port, log = free_port(), folder / "tinyproxy.log"
    lines = [
        f"Port {port}", "Listen 127.0.0.1", "Timeout 600", "LogLevel Info", "Allow 127.0.0.1",
        f"ConnectPort {allowed_port}", *([f"BasicAuth {who[0]} {who[1]}"] if who else []),
    ]  # fmt: skip
    conf = folder / "tinyproxy.conf"
    conf.write_text("\n".join(lines) + "\n")
    with running(["tinyproxy", "-d", "-c", str(conf)], port, log):
        yield port, log


@contextlib.contextmanager
def microsocks(folder: Path, who: tuple[str, str] | None = None) -> Iterator[tuple[int, Path]]:
    """(port, log) of a SOCKS5 proxy."""
    port, log = free_port(), folder / "microsocks.log"
    auth = ["-u", who[0], "-P", who[1]] if who else []
    with running(["microsocks", "-i", "127.0.0.1", "-p", str(port), *auth], port, log):
        yield port, log


@contextlib.contextmanager
def alpn_switch(folder: Path, name: str, behind: int) -> Iterator[int]:
    """The port of a front that passes TLS on by the protocol its client names, and nothing else."""
    port, conf = free_port(), folder / "haproxy.cfg"
    conf.write_text(
        f"""
defaults
    mode tcp
    timeout connect 60s
    timeout client 600s
    timeout server 600s
frontend shared
    bind 127.0.0.1:{port}
    tcp-request inspect-delay 60s
    tcp-request content accept if {{ req.ssl_hello_type 1 }} {{ req.ssl_alpn {name} }}
    tcp-request content reject
    default_backend broker
backend broker
    server broker 127.0.0.1:{behind}
"""
    )
    with running(["haproxy", "-db", "-f", str(conf)], port, folder / "haproxy.log"):
        yield port
