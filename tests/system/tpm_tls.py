"""A TLS client with a key in a file or in a TPM, and the server and certificates it is tried on.

The client is a process of its own: a provider is loaded for the life of a process, and tpm2-openssl
1.1.1 leaves it no other key.

    with server(pki, port_of) ... client({"tcti": ..., "cert": ..., "key": ..., "port": ...})

A TPM key is presented as the agent does it, or with ``"provider": True`` by tpm2-openssl.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@contextlib.contextmanager
def server(cert: Path, key: Path, ca: Path, bind: str = "127.0.0.1") -> Iterator[int]:
    """A TLS server that demands a client certificate and echoes one byte; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    listening = socket.create_server((bind, 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                tls.sendall(tls.recv(1))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def client(asked: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run this file as the client; what it prints."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), json.dumps(asked)],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "agent")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _context(asked: dict[str, Any]) -> tuple[ssl.SSLContext, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    version = ssl.TLSVersion[asked.get("version", "TLSv1_3")]
    context.minimum_version = context.maximum_version = version
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(asked["ca"])
    return context, _present(context, asked)


def _present(context: ssl.SSLContext, asked: dict[str, Any]) -> str:
    """Give the context its key, as the agent does or by OpenSSL's provider; how."""
    if asked["tcti"] is None or asked.get("provider"):
        from edgewarden.kernel.openssl import load_tpm_provider

        recipe = str(load_tpm_provider(asked["tcti"])) if asked["tcti"] else ""
        context.load_cert_chain(asked["cert"], asked["key"])
        return recipe
    from edgewarden.kernel.tpm import Tpm
    from edgewarden.trust.tpmkey import TpmKey

    key = TpmKey(Tpm(asked["tcti"]), Path(asked["key"]).read_bytes())
    key.present(context, Path(asked["cert"]), Path(asked["key"]))
    return key.recipe()


def _handshake(context: ssl.SSLContext, port: int) -> tuple[float, str]:
    """Seconds until the server, having seen our signature, has echoed a byte; the version."""
    began = time.perf_counter()
    plain = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(b"x")
        if tls.recv(1) != b"x":
            raise AssertionError("no echo")
        return time.perf_counter() - began, str(tls.version())


def _publish(context: ssl.SSLContext, port: int, name: str) -> bool:
    """A QoS 1 message through paho; whether the broker acknowledged it."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    session = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
    session.tls_set_context(context)
    session.connect_timeout = START_S
    session.connect("localhost", port)
    session.loop_start()
    try:
        info = session.publish(f"ew/1/main/{name}/r/bulk", b"from a TPM", qos=1)
        info.wait_for_publish(START_S)
        return bool(info.is_published())
    finally:
        session.disconnect()
        session.loop_stop()


def main() -> None:
    asked = json.loads(sys.argv[1])
    context, recipe = _context(asked)
    said: dict[str, Any] = {"recipe": recipe}
    if "publish" in asked:
        said["acked"] = _publish(context, asked["port"], asked["publish"])
    else:
        made = [_handshake(context, asked["port"]) for _ in range(asked.get("count", 1))]
        said |= {"times_s": [s for s, _ in made], "version": made[-1][1]}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
