"""link's control socket: the server side of wire/control.py.

One client is one task: read a line within ``READ_S``, answer, close. At most ``MAX_CLIENTS`` at a
time; one more is closed at once. The socket's mode and group decide who may ask (0660, root and the
group edgewarden); nothing that arrives here can change anything.

The path is bound under a temporary name and renamed into place, so that nobody ever sees a socket
that does not yet listen with its final mode. A stale socket of a killed process is replaced by that
same rename.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgewarden.errors import EdgewardenError, HardwareFault, WireRefusal
from edgewarden.wire.control import (
    MAX_REQUEST_BYTES,
    Request,
    encode_answer,
    encode_refusal,
    parse_request,
)

MAX_CLIENTS = 8
"""A technician has two terminals; a console and a watch script each hold one."""
READ_S = 2.0
"""The request is one write of 60 bytes: whoever needs longer is not a client."""
WRITE_S = 5.0

Handler = Callable[[Request], "dict[str, object] | Awaitable[dict[str, object]]"]
"""Answers on the event loop's thread, without blocking; may raise EdgewardenError."""


async def serve_control(
    path: Path, handler: Handler, group: str | None = None
) -> asyncio.AbstractServer:
    """Listen on ``path``; returns the server, already accepting.

    Args:
        path: the socket; at most 107 bytes (unix(7)).
        handler: makes the answer of a request.
        group: the group that may ask; None leaves the process's own.

    Raises:
        HardwareFault: EW-HOST-006, the socket cannot be made.
    """
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # start_unix_server runs this as a task
        clients.add(task)
        try:
            if len(clients) <= MAX_CLIENTS:
                await _converse(reader, writer, handler)
        except OSError:  # TimeoutError too
            pass  # the client's loss; the next one is served
        finally:
            clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    server: asyncio.AbstractServer | None = None
    try:
        fresh.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(serve, fresh, limit=MAX_REQUEST_BYTES)
        if group is not None:
            shutil.chown(fresh, group=group)
        fresh.chmod(0o660)
        fresh.rename(path)
    except (OSError, LookupError) as fault:
        if server is not None:
            server.close()
            fresh.unlink(missing_ok=True)
        raise HardwareFault(
            f"the control socket {path} cannot be made: {fault}",
            code="EW-HOST-006",
            next_step="check that the folder exists and belongs to the agent's user",
        ) from fault
    return server


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler
) -> None:
    try:
        async with asyncio.timeout(READ_S):
            line = await _line(reader)
        made = handler(parse_request(line))
        answer = encode_answer(made if isinstance(made, dict) else await made)
    except WireRefusal as refusal:
        answer = encode_refusal(refusal.name, refusal.text, refusal.code, refusal.next_step)
    except EdgewardenError as fault:
        answer = encode_refusal("failed", fault.text, fault.code, fault.next_step)
    writer.write(answer)
    async with asyncio.timeout(WRITE_S):
        await writer.drain()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Everything that came up to the first newline or the limit: the parser names what is wrong."""
    data = b""
    while b"\n" not in data and len(data) <= MAX_REQUEST_BYTES:
        chunk = await reader.read(MAX_REQUEST_BYTES + 1)
        if not chunk:
            break
        data += chunk
    return data
