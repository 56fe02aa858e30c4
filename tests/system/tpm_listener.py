"""The listener's context in a process that uses a TPM key: one of its own, as tpm_tls.py says.

    python tests/system/tpm_listener.py TCTI FOLDER [asked]    {"code": "", "recipe": "..."}; serves

``asked``: the TPM key is used as the agent uses it, in two handshakes before; else tpm2-openssl is
loaded as the agent does where OpenSSL takes no key of others.

Serves one connection with the context whatever the proof said, so that a test can hold the proof to
what a client sees.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from pathlib import Path

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.openssl import load_tpm_provider
from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.selftest import prove
from edgewarden.trust.tls import DeviceFiles, device_context, prove_server
from edgewarden.trust.tpmkey import TpmKey


def main() -> None:
    tcti, folder = sys.argv[1], Path(sys.argv[2])
    recipe = ""
    if tcti and sys.argv[3:] == ["asked"]:
        key = TpmKey.generate(Tpm(tcti))
        prove(key, folder / "none")
        recipe = key.recipe()
    elif tcti:
        recipe = str(load_tpm_provider(tcti))
    files = DeviceFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    context, code = device_context(files), ""
    try:
        prove_server(context)
    except EdgewardenError as fault:
        code = fault.code
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        print(json.dumps({"code": code, "recipe": recipe, "port": port}), flush=True)
        plain, _ = listening.accept()
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
            tls.sendall(b"device welcome\n")


if __name__ == "__main__":
    main()
