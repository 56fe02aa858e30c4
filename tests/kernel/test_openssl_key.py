"""A key whose private half OpenSSL never sees: real handshakes, in memory, against a plain context.

The signer is a key of ``cryptography``'s: what is tried here is the way from OpenSSL to it and
back. With a TPM behind it: tests/system/test_tpm_tls.py.
"""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_long, c_void_p
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from edgewarden.errors import HardwareFault
from edgewarden.kernel import openssl, openssl_key
from edgewarden.kernel.openssl_key import Sign, present
from tests.broker import Pki

CLIENT_SIGALGS = 102  # SSL_CTRL_SET_CLIENT_SIGALGS_LIST of <openssl/ssl.h>
V13, V12 = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2


class Far:
    """A key elsewhere: its point, and a signature when it is asked."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.point = self.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.asked: list[bytes] = []
        self.threads: set[int] = set()

    def sign(self, digest: bytes) -> bytes:
        self.asked.append(digest)
        self.threads.add(threading.get_ident())
        return self.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def far() -> Iterator[Far]:
    yield Far()
    gc.collect()


def context(pki: Pki, side: int, version: ssl.TLSVersion = V13) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = made.maximum_version = version
    made.load_verify_locations(pki.ca)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def client(pki: Pki, far: Far, name: str = "gw-far", version: ssl.TLSVersion = V13,
           sign: Sign | None = None) -> ssl.SSLContext:  # fmt: skip
    made = context(pki, ssl.PROTOCOL_TLS_CLIENT, version)
    cert, _ = pki.issue(name, key=far.key.public_key())
    present(made, cert, far.point, sign or far.sign)
    return made


def server(pki: Pki, version: ssl.TLSVersion = V13) -> ssl.SSLContext:
    made = context(pki, ssl.PROTOCOL_TLS_SERVER, version)
    made.load_cert_chain(*pki.issue("server", server=True))
    return made


def play(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> dict[str, object]:
    """Both ends to the end; the certificate that the server saw. Raises SSLError."""
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        ours.wrap_bio(to_us, to_them, server_hostname="localhost"),
        theirs.wrap_bio(to_them, to_us, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(8):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return dict(ends[1].getpeercert() or {})
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("version", [V13, V12])
def test_a_server_sees_its_certificate_and_one_signature_is_asked(
    pki: Pki, far: Far, version: ssl.TLSVersion
) -> None:
    seen = play(client(pki, far, version=version), server(pki, version))
    assert "gw-far" in str(seen["subject"])
    assert [len(digest) for digest in far.asked] == [32]


@pytest.mark.parametrize("version", [V13, V12])
def test_a_server_may_have_such_a_key_too(pki: Pki, far: Far, version: ssl.TLSVersion) -> None:
    theirs = context(pki, ssl.PROTOCOL_TLS_SERVER, version)
    cert, _ = pki.issue("server", server=True, key=far.key.public_key())
    present(theirs, cert, far.point, far.sign)
    play(client(pki, far, version=version), theirs)
    assert len(far.asked) == 2


def test_no_other_key_of_the_process_is_touched(pki: Pki, far: Far) -> None:
    plain = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    plain.load_cert_chain(*pki.issue("gw-plain"))
    ours = client(pki, far)
    for one, name in ((plain, "gw-plain"), (ours, "gw-far"), (plain, "gw-plain")):
        assert name in str(play(one, server(pki))["subject"])
    assert len(far.asked) == 1


def test_two_keys_do_not_sign_for_each_other(pki: Pki) -> None:
    one, two = Far(), Far()
    contexts = client(pki, one, "gw-one"), client(pki, two, "gw-two")
    for made, name in zip(contexts, ("gw-one", "gw-two"), strict=True):
        assert name in str(play(made, server(pki))["subject"])
    assert (len(one.asked), len(two.asked)) == (1, 1)


def test_the_last_signer_of_a_key_is_asked(pki: Pki, far: Far) -> None:
    """A TPM's connection is made anew; the contexts of before go on with the new one."""
    again, asked = client(pki, far), list[bytes]()
    client(pki, far, sign=lambda digest: (asked.append(digest), far.sign(digest))[1])
    play(again, server(pki))
    assert len(asked) == 1


def test_a_session_outlives_its_context(pki: Pki, far: Far) -> None:
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server(pki).wrap_bio(to_them, to_us, server_side=True)
    ours = client(pki, far).wrap_bio(to_us, to_them, server_hostname="localhost")
    gc.collect()
    ends = [ours, theirs]
    for _ in range(8):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends


def test_hundreds_of_handshakes_in_four_threads(pki: Pki, far: Far) -> None:
    ours, theirs, faults = client(pki, far), server(pki), list[Exception]()

    def work() -> None:
        try:
            for _ in range(50):
                play(ours, theirs)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not faults
    assert len(far.asked) == 200
    assert len(far.threads) == 4, "each on the thread of its handshake"


def refuse(digest: bytes) -> bytes:
    raise HardwareFault("the TPM is gone", code="EW-ID-030", next_step="look")


def interrupt(digest: bytes) -> bytes:
    raise KeyboardInterrupt


BAD: dict[str, Callable[[Far, bytes], bytes]] = {
    "it raises": lambda far, digest: refuse(digest),
    "it is interrupted": lambda far, digest: interrupt(digest),
    "nothing": lambda far, digest: b"",
    "garbage": lambda far, digest: b"\x30" + bytes(60),
    "of something else": lambda far, digest: far.sign(bytes(32)),
    "longer than the room for it": lambda far, digest: far.sign(digest) + bytes(200),
    "no bytes": lambda far, digest: None,  # type: ignore[return-value]
}


@pytest.mark.parametrize("version", [V13, V12])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_signature_ends_the_handshake_alone(
    pki: Pki, far: Far, name: str, version: ssl.TLSVersion
) -> None:
    ours = client(pki, far, version=version, sign=lambda digest: BAD[name](far, digest))
    with pytest.raises(ssl.SSLError):
        play(ours, server(pki, version))
    present(ours, pki.issue("gw-far", key=far.key.public_key())[0], far.point, far.sign)
    play(ours, server(pki, version))


def test_a_server_that_wants_another_hash_gets_no_signature(pki: Pki, far: Far) -> None:
    """TLS 1.2 lets it ask for SHA-384 of a P-256 key; the key elsewhere signs SHA-256 alone."""
    theirs = server(pki, V12)
    library = openssl.libssl()
    library.SSL_CTX_ctrl.argtypes = (c_void_p, c_int, c_long, c_char_p)
    wanted = b"ECDSA+SHA384"
    assert library.SSL_CTX_ctrl(openssl.ssl_ctx(theirs), CLIENT_SIGALGS, 0, wanted) == 1
    plain = context(pki, ssl.PROTOCOL_TLS_CLIENT, V12)
    plain.load_cert_chain(*pki.issue("gw-plain"))
    play(plain, theirs)
    with pytest.raises(ssl.SSLError):
        play(client(pki, far, version=V12), theirs)
    assert far.asked == []


def test_what_the_signer_leaves_in_openssls_queue_is_not_the_handshakes(pki: Pki, far: Far) -> None:
    """tpm2-tss computes with the same library, and what it leaves there would end a session that
    only waits."""
    crypto = openssl.libcrypto()

    def leaves(digest: bytes) -> bytes:
        signature = far.sign(digest)
        assert not crypto.EVP_set_default_properties(None, b"no=query=at all")
        return signature

    # In TLS 1.2 the client still waits for an answer after its signature.
    play(client(pki, far, sign=leaves, version=V12), server(pki, V12))
    assert len(far.asked) == 1


def test_a_certificate_of_another_key_is_refused(pki: Pki, far: Far) -> None:
    made = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    cert, _ = pki.issue("gw-other")
    with pytest.raises(ssl.SSLError, match="another key"):
        present(made, cert, far.point, far.sign)


def test_a_file_without_a_certificate_is_refused(pki: Pki, far: Far, tmp_path: Path) -> None:
    made = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    for name, data in (("none.pem", None), ("empty.pem", b""), ("bad.pem", b"-----BEGIN")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ssl.SSLError, match=name):
            present(made, tmp_path / name, far.point, far.sign)
    play(client(pki, far), server(pki))


def test_a_point_that_is_none_is_refused(pki: Pki, far: Far) -> None:
    made = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    cert, _ = pki.issue("gw-far", key=far.key.public_key())
    for point in (far.point[:-1] + bytes([far.point[-1] ^ 1]), far.point[:-1], b""):
        with pytest.raises(HardwareFault) as refused:
            present(made, cert, point, far.sign)
        assert refused.value.code == "EW-ID-032"


def test_a_context_that_is_laid_out_otherwise_is_left_alone(
    pki: Pki, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another SSL_CTX than Python's would get a key that nobody meant for it."""
    other = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    other.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    real = openssl._held
    monkeypatch.setattr(openssl, "_held", lambda _: real(other))
    with pytest.raises(HardwareFault, match="elsewhere"):
        client(pki, far)


def test_one_that_looks_alike_is_found_out_by_a_turned_flag(
    pki: Pki, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    real = openssl._held
    monkeypatch.setattr(openssl, "_held", lambda _: real(alike))
    with pytest.raises(HardwareFault, match="elsewhere"):
        client(pki, far)


def test_the_look_leaves_a_context_as_it_was(pki: Pki) -> None:
    made = context(pki, ssl.PROTOCOL_TLS_CLIENT)
    before = made.verify_flags
    openssl.ssl_ctx(made)
    assert made.verify_flags == before


def test_an_openssl_without_such_methods_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openssl_key._CRYPTO, "EC_KEY_METHOD_of_another_day", (None, ()))
    openssl_key._crypto.cache_clear()
    try:
        assert "EC_KEY_METHOD_of_another_day" in str(openssl_key.missing())
    finally:
        monkeypatch.undo()
        assert openssl_key.missing() is None
