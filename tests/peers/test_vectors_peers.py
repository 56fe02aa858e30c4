"""The published vectors in other people's libraries: good messages hold, altered ones do not."""

from __future__ import annotations

import pytest
from cwt import COSE, COSEKey, VerifyError
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage, Sign1Message

from edgewarden.wire import cose
from tests.wire.test_vectors import NAMES, Read, read

VECTORS = {name: read(name) for name in NAMES}
GOOD = [name for name, v in VECTORS.items() if v.fields["expect"] == "accepted"]
TWIN = "bad-bad_signature-twin"
ALTERED = [
    name for name, v in VECTORS.items()
    if v.fields["expect"] == "bad_signature" and name != TWIN
]  # fmt: skip


def pycose_holds(vector: Read) -> bool:
    x, y = cose.decode_key(bytes.fromhex(vector.fields["key"]))
    message = CoseMessage.decode(vector.data)
    assert isinstance(message, Sign1Message)
    message.key = EC2Key(crv=P256, x=x, y=y)
    return bool(message.verify_signature())


def cwt_holds(vector: Read) -> bool:
    x, y = cose.decode_key(bytes.fromhex(vector.fields["key"]))
    envelope = cose.open_envelope(vector.data, cose.ContentType(vector.fields["type"]))
    key = COSEKey.new({1: 2, 2: envelope.kid, 3: cose.ES256, -1: 1, -2: x, -3: y})
    try:
        return COSE.new().decode(vector.data, key) == envelope.payload
    except VerifyError:
        return False


@pytest.mark.parametrize("name", GOOD)
def test_good_ones_hold(name: str) -> None:
    assert pycose_holds(VECTORS[name])
    assert cwt_holds(VECTORS[name])


@pytest.mark.parametrize("name", ALTERED)
def test_altered_ones_do_not(name: str) -> None:
    assert not pycose_holds(VECTORS[name])
    assert not cwt_holds(VECTORS[name])


def test_the_twin_holds_there() -> None:
    """Why docs/wire-format.md has a rule of its own: any ECDSA library takes (r, n - s)."""
    assert pycose_holds(VECTORS[TWIN])
    assert cwt_holds(VECTORS[TWIN])
