"""state/policy/exec.images: contents of the images that rules ask for, by the file that they are.

What this decides: the bytes. gate learns a program's content when it is started on a watched
filesystem; whatever runs since before gate, or lies elsewhere (init, sshd, a shell, python), it has
never hashed. The policy one-shot, which has, writes down each by (device, inode, ctime, mtime,
size). A running image cannot be written to (ETXTBSY), so the file that /proc/PID/exe leads to has
the content that was read, or another key.

It says who somebody is (``parent``, interpreter), never what may be executed: that is hashed.

Sealed (wire/lean.py): rows of key (40 bytes, exec/digest.py) and SHA-256 (32 bytes), ascending by
key, none twice.

    load_images(compile_images({key: digest})) == {key: digest}
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import DIGEST_BYTES, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"EWIMAGE1"
IMAGES_NAME = "exec.images"
KEY_BYTES = 40
ROW_BYTES = KEY_BYTES + DIGEST_BYTES
MAX_IMAGES = 1024
"""Interpreters and shells of a Debian are about forty; the rest is for what rules name as parent.
About 200 bytes each in gate."""
MAX_IMAGES_BYTES = 64 + MAX_IMAGES * ROW_BYTES


def compile_images(images: Mapping[bytes, bytes]) -> bytes:
    """The bytes of the file; beyond MAX_IMAGES the rest is left out, and unknown to gate."""
    rows = [key + images[key] for key in sorted(images)[:MAX_IMAGES]]
    return seal(MAGIC, b"".join(rows))


def load_images(data: bytes) -> dict[bytes, bytes]:
    """Read what ``compile_images`` wrote.

    Raises:
        WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_length, bad_order.
    """
    body = unseal(MAGIC, data, most=MAX_IMAGES_BYTES)
    if len(body) % ROW_BYTES:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    found: dict[bytes, bytes] = {}
    last = b""
    for at in range(0, len(body), ROW_BYTES):
        key = body[at : at + KEY_BYTES]
        if key <= last:
            raise WireRefusal("bad_order", "keys do not rise")
        last = key
        found[key] = body[at + KEY_BYTES : at + ROW_BYTES]
    return found
