"""Connects again and again with a key in a TPM, as an uplink without peace: row A9.

    python tests/system/tpm_reconnects.py '{"tcti", "cert", "key", "ca", "port", "count"}'

A JSON line after each tenth: connections made, those that failed (the resource manager may be gone
for a moment: tried again, as an uplink does), keys that the connection holds in the TPM, memory
of its own and open descriptors of this process. A new TLS context every CONTEXT_LASTS connections,
as after a renewal.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from pathlib import Path

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from tests.system.tpm_tls import _handshake

CONTEXT_LASTS = 10
PATIENCE_S = 120.0
"""The resource manager is away for less."""
PAUSE_S = 0.05


def resident_kb() -> int:
    """Memory of its own: pages of files come and go as the kernel likes."""
    status = Path("/proc/self/status").read_text()
    return sum(int(status.split(name)[1].split()[0]) for name in ("RssAnon:", "VmSwap:"))


def main() -> None:
    asked = json.loads(sys.argv[1])
    cert, path = Path(asked["cert"]), Path(asked["key"])
    failed = 0
    with Tpm(asked["tcti"]) as tpm:
        key = TpmKey(tpm, path.read_bytes())

        def fresh() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(asked["ca"])
            key.present(context, cert, path)
            return context

        context: ssl.SSLContext | None = None
        for made in range(1, asked["count"] + 1):
            until_mono = time.monotonic() + PATIENCE_S
            while True:
                try:
                    if context is None or made % CONTEXT_LASTS == 0:
                        context = fresh()
                    _handshake(context, asked["port"])
                    break
                except (OSError, AssertionError, EdgewardenError):
                    failed += 1
                    if time.monotonic() > until_mono:
                        raise
                    time.sleep(PAUSE_S)
            if made % (asked["count"] // 10) == 0:
                said = {
                    "made": made, "failed": failed, "keys": tpm.transients(),
                    "resident_kb": resident_kb(), "descriptors": len(os.listdir("/proc/self/fd")),
                }  # fmt: skip
                print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
