"""The TPM 2.0: make keys, sign, quote, certify, activate. Bytes in, bytes out.

With tpm_meanwhile.py the only one that imports tpm2-pytss (extra [tpm], or Debian's
python3-tpm2-pytss; 1.2 to 3.0). Decides which keys there are and how a lost connection is mended;
leaves what an answer means to wire/tpm.py and judge/.

    EK    endorsement hierarchy, TCG's templates L-1 (RSA-2048) and L-2 (P-256); decrypts only
    AK    endorsement hierarchy, a primary of our own template: restricted, signs what the TPM
          itself made. Made anew at each start, the same each time: no file that a clone could
          carry away. (Under the owner hierarchy a quote's reset count would be obfuscated.)
    TLS   owner hierarchy's P-256 storage key above it, as tpm2-openssl builds it; kept wrapped

Rules of this file, because the binding's objects point into memory of others (reading a chain of
temporaries gave freed memory 50 times of 50):

1. an argument is unmarshalled from bytes written here, an answer is marshalled before it is read
2. nothing is read off a call's result in the same expression
3. keywords are not used: their names differ between versions

A TPM has room for three keys. AK and TLS key stay loaded; parents, EK and sessions are flushed in
the call that made them. When the resource manager or the TPM went away, the call is repeated once
on a new connection.

Every method blocks (up to seconds on a chip: RSA keys), is safe from any thread and raises
HardwareFault EW-ID-030, or TrustFault EW-ID-031 for what is another TPM's. Never on the event loop.

    with Tpm("device:/dev/tpmrm0") as tpm:
        key = tpm.make_key()
        signature = tpm.sign(key, digest)
"""

from __future__ import annotations

import ctypes
import importlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from edgewarden.kernel import tpm_forms as forms
from edgewarden.kernel import tpm_meanwhile
from edgewarden.kernel.tpm_faults import is_lost, refusal, renamed
from edgewarden.kernel.tpm_forms import sized, unsized
from edgewarden.kernel.tpm_meanwhile import Beside, Pieces

T = TypeVar("T")
Key = tuple[bytes, bytes]
"""A TLS key at rest: (TPM2B_PUBLIC, TPM2B_PRIVATE); the second is wrapped by its TPM."""

# TPM 2.0 Part 2: TPM_HT 0x01 (NV) and 0x80 (transient), TPM_CAP_HANDLES, TPM_SE_POLICY.
_NV_FIRST, _TRANSIENT_FIRST, _CAP_HANDLES, _SE_POLICY = 0x01000000, 0x80000000, 1, 1
_NV_CHUNK = 512
"""TPM_PT_NV_BUFFER_MAX is at least 512 (PC Client Platform TPM Profile)."""
_PCR_TRIES = 4
"""A quote whose PCRs moved while they were read is taken again; IMA may extend at any moment."""
_PCRS_PER_READ = 8  # TPML_DIGEST holds no more
_MAX_HANDLES = 254  # TPM2_MAX_CAP_HANDLES of tpm2-tss


def missing() -> str | None:
    """Why there is no binding here, or None when it loads."""
    try:
        _binding()
    except (ImportError, OSError, RuntimeError) as fault:
        return f"tpm2-pytss does not load: {fault}"
    return None


def _binding() -> Any:
    libc = ctypes.CDLL(None)
    # tpm2-tss prints every refusal to stderr; ours say it once. 0: a person's own choice stays.
    libc.setenv(b"TSS2_LOG", b"all+none", 0)
    return importlib.import_module("tpm2_pytss")


class Tpm:
    """One TPM. ``tcti`` says where, in tpm2-tss's words: ``device:/dev/tpmrm0``, ``tabrmd:...``."""

    def __init__(self, tcti: str) -> None:
        self.tcti = tcti
        self._lock = threading.RLock()
        self._tss: Any = None
        self._esys: Any = None
        self._ak: Any = None
        self._tls: Any = None
        self._key: Key | None = None
        self._kept: dict[tuple[str, bytes], Any] = {}
        self._library: tpm_meanwhile.Library | None = None
        self._meanwhile = threading.local()
        self._do("open", lambda: None)

    def __enter__(self) -> Tpm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush what is loaded and let the TPM go. The next call opens it again."""
        with self._lock:
            for handle in filter(None, (self._ak, self._tls)):
                self._flush(handle)
            self._drop()

    # --- keys ---------------------------------------------------------------------------------

    def make_key(self) -> Key:
        """A new TLS key that never leaves this TPM."""
        return self._do("make a key", self._make_key)

    def check_key(self, key: Key) -> None:
        """Load a TLS key; TrustFault EW-ID-031 when it is another TPM's."""
        self._do("load the key", lambda: self._loaded_tls(key))

    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the attestation key."""
        return self._do("make the attestation key", lambda: self._public_of(self._loaded_ak()))

    def ek_public(self, kind: str) -> bytes:
        """TPMT_PUBLIC of the endorsement key, kind ``rsa`` or ``ecc``."""

        return self._do(
            "make the endorsement key",
            lambda: self._with_primary("ENDORSEMENT", forms.EK[kind], self._public_of),
        )

    def ek_certificate(self, kind: str) -> bytes:
        """What the maker stored beside it: X.509, DER, perhaps with padding; b"" when nothing."""
        return self._do(
            "read the EK certificate", lambda: self._read_nv(forms.EK_CERTIFICATES[kind])
        )

    # --- what they do -------------------------------------------------------------------------

    def sign(self, key: Key, digest: bytes) -> bytes:
        """ECDSA by a TLS key over a SHA-256 digest: TPMT_SIGNATURE."""

        def work() -> bytes:
            scheme = self._same("TPMT_SIG_SCHEME", forms.ECDSA_SHA256)
            ticket = self._same("TPMT_TK_HASHCHECK", forms.HASH_TICKET)
            value = self._in("TPM2B_DIGEST", sized(digest))
            handle = self._loaded_tls(key)
            if beside := self._beside():
                return tpm_meanwhile.sign(beside, self._esys, handle, (value, scheme, ticket))
            return _out(self._esys.sign(handle, value, scheme, ticket))

        return self._do("sign", work)

    def quote(
        self, qualifying: bytes, pcrs: Iterable[int]
    ) -> tuple[bytes, bytes, dict[int, bytes]]:
        """The attestation key's word for the PCRs: (TPMS_ATTEST, TPMT_SIGNATURE, their values).

        Args:
            qualifying: at most 64 bytes that the quote carries; pcrs are of the SHA-256 bank.
        """
        wanted = sorted(pcrs)

        def work() -> tuple[bytes, bytes, dict[int, bytes]]:
            for _ in range(_PCR_TRIES):
                before, values = self._read_pcrs(wanted)
                attest, signature = self._attest(qualifying, wanted)
                after, _ = self._read_pcrs(wanted[:1])
                if before == after:
                    return attest, signature, values
            raise refusal("quote", "the PCRs do not stand still")

        return self._do("quote", work)

    def quote_alone(self, qualifying: bytes, pcrs: Iterable[int]) -> tuple[bytes, bytes]:
        """``quote`` for a caller that knows the values: one command in place of four."""
        return self._do("quote", lambda: self._attest(qualifying, sorted(pcrs)))

    def _attest(self, qualifying: bytes, pcrs: list[int]) -> tuple[bytes, bytes]:
        data = self._in("TPM2B_DATA", sized(qualifying))
        banked = self._same("TPML_PCR_SELECTION", forms.sha256_bank(pcrs))
        ak = self._loaded_ak()
        if beside := self._beside():
            scheme = self._same("TPMT_SIG_SCHEME", forms.NONE)
            return tpm_meanwhile.quote(beside, self._esys, ak, (data, scheme, banked))
        attest, signature = self._esys.quote(ak, banked, data)
        return unsized(_out(attest)), _out(signature)

    def certify(self, key: Key, qualifying: bytes) -> tuple[bytes, bytes]:
        """The attestation key's word that a TLS key is in this TPM: TPMS_ATTEST and signature."""

        def work() -> tuple[bytes, bytes]:
            scheme = self._in("TPMT_SIG_SCHEME", forms.NONE)
            data = self._in("TPM2B_DATA", sized(qualifying))
            tls, ak = self._loaded_tls(key), self._loaded_ak()
            attest, signature = self._esys.certify(tls, ak, data, scheme)
            return unsized(_out(attest)), _out(signature)

        return self._do("certify", work)

    def activate(self, kind: str, credential: bytes, secret: bytes) -> bytes:
        """Open a credential made for this EK and this AK (TPM2_ActivateCredential).

        Args:
            kind: which EK it was made for.
            credential: TPM2B_ID_OBJECT.
            secret: TPM2B_ENCRYPTED_SECRET.

        Raises:
            TrustFault: EW-ID-031, it was made for another TPM or another key's name.
        """

        def with_ek(ek: Any) -> bytes:
            session = self._endorsement_session()
            try:
                blob = self._in("TPM2B_ID_OBJECT", credential)
                wrapped = self._in("TPM2B_ENCRYPTED_SECRET", secret)
                password, ak = self._tr("PASSWORD"), self._loaded_ak()
                found = self._esys.activate_credential(ak, ek, blob, wrapped, password, session)
                return unsized(_out(found))
            finally:
                self._flush(session)

        return self._do(
            "activate a credential",
            lambda: self._with_primary("ENDORSEMENT", forms.EK[kind], with_ek),
        )

    @contextmanager
    def meanwhile(self, pieces: Pieces) -> Iterator[None]:
        """Take from ``pieces`` while the TPM works on what this thread has it sign or quote.

        They are to raise nothing. How many are taken is the TPM's affair: what must be done, is
        to be done afterwards.
        """
        self._meanwhile.pieces = pieces
        try:
            yield
        finally:
            self._meanwhile.pieces = None

    def transients(self) -> int:
        """How many keys this connection holds loaded."""
        return self._do("count handles", lambda: len(self._handles(_TRANSIENT_FIRST)))

    # --- inside: each of these is called with the lock held and a connection open ---------------

    def _do(self, what: str, work: Callable[[], T]) -> T:
        with self._lock:
            try:
                return self._once(work)
            except Exception as why:
                if not is_lost(why):
                    raise renamed(what, why) from why
            self._drop()
            try:
                return self._once(work)
            except Exception as why:
                self._drop()
                raise renamed(what, why) from why

    def _once(self, work: Callable[[], T]) -> T:
        if self._esys is None:
            self._tss = _binding()
            self._library = tpm_meanwhile.library(self._tss)
            self._esys = self._tss.ESAPI(self.tcti)
        return work()

    def _beside(self) -> Beside | None:
        """What to do beside the next command of this thread, and the library to do it with."""
        pieces = getattr(self._meanwhile, "pieces", None)
        return Beside(self._library, pieces) if self._library and pieces is not None else None

    def _drop(self) -> None:
        """Forget the connection; what was loaded on it is gone with it."""
        esys, self._esys, self._ak, self._tls = self._esys, None, None, None
        if esys is not None:
            try:
                esys.close()
            except Exception:  # the other end is gone, which is why we are here
                return

    def _in(self, kind: str, data: bytes) -> Any:
        value, _ = getattr(self._tss, kind).unmarshal(data)
        return value

    def _same(self, kind: str, data: bytes) -> Any:
        """As _in, for what is said again and again: no call changes what it is given."""
        found = self._kept[kind, data] = self._kept.get((kind, data)) or self._in(kind, data)
        return found

    def _tr(self, name: str) -> Any:
        return getattr(self._tss.ESYS_TR, name)

    def _flush(self, handle: Any) -> None:
        try:
            self._esys.flush_context(handle)
        except Exception:  # gone with its connection
            return

    def _primary(self, hierarchy: str, template: bytes) -> Any:
        sensitive = self._in("TPM2B_SENSITIVE_CREATE", forms.EMPTY_SENSITIVE)
        public = self._in("TPM2B_PUBLIC", sized(template))
        handle, *_ = self._esys.create_primary(sensitive, public, self._tr(hierarchy))
        return handle

    def _with_primary(self, hierarchy: str, template: bytes, work: Callable[[Any], T]) -> T:
        handle = self._primary(hierarchy, template)
        try:
            return work(handle)
        finally:
            self._flush(handle)

    def _public_of(self, handle: Any) -> bytes:
        public, *_ = self._esys.read_public(handle)
        return unsized(_out(public))

    def _loaded_ak(self) -> Any:
        if self._ak is None:
            self._ak = self._primary("ENDORSEMENT", forms.AK)
        return self._ak

    def _loaded_tls(self, key: Key) -> Any:
        """One TLS key at a time: who asks for another one waits for its loading."""
        if self._tls is not None and self._key != key:
            self._flush(self._tls)
            self._tls = None
        if self._tls is None:
            public = self._in("TPM2B_PUBLIC", key[0])
            private = self._in("TPM2B_PRIVATE", key[1])
            self._tls = self._with_primary(
                "OWNER", forms.STORAGE, lambda parent: self._esys.load(parent, private, public)
            )
            self._key = key
        return self._tls

    def _make_key(self) -> Key:
        sensitive = self._in("TPM2B_SENSITIVE_CREATE", forms.EMPTY_SENSITIVE)
        template = self._in("TPM2B_PUBLIC", sized(forms.TLS))

        def below(parent: Any) -> Key:
            private, public, *_ = self._esys.create(parent, sensitive, template)
            return _out(public), _out(private)

        return self._with_primary("OWNER", forms.STORAGE, below)

    def _endorsement_session(self) -> Any:
        """A policy session in which the EK may be used: by the hierarchy's (empty) password."""
        none, sha256 = self._tr("NONE"), self._tss.TPM2_ALG(forms.SHA256)
        symmetric = self._in("TPMT_SYM_DEF", forms.NONE)
        kind = self._tss.TPM2_SE(_SE_POLICY)
        session = self._esys.start_auth_session(none, none, kind, symmetric, sha256)
        try:
            endorsement = self._tr("ENDORSEMENT")
            self._esys.policy_secret(endorsement, session, b"", b"", b"", 0)
        except BaseException:
            self._flush(session)
            raise
        return session

    def _read_pcrs(self, wanted: list[int]) -> tuple[int, dict[int, bytes]]:
        """(update counter, values); eight at a time is all that one answer holds."""
        values, counters, left = dict[int, bytes](), set(), wanted
        while left:
            some = left[:_PCRS_PER_READ]
            banked = self._same("TPML_PCR_SELECTION", forms.sha256_bank(some))
            counter, _, listed = self._esys.pcr_read(banked)
            found = forms.digests(_out(listed))
            if len(found) != len(some):
                raise refusal("read the PCRs", "this TPM has no SHA-256 bank in use")
            values.update(zip(some, found, strict=True))
            counters.add(int(counter))
            left = left[_PCRS_PER_READ:]
        return (counters.pop() if len(counters) == 1 else -1), values

    def _handles(self, first: int) -> list[int]:
        kind = self._tss.TPM2_CAP(_CAP_HANDLES)
        _, found = self._esys.get_capability(kind, first, _MAX_HANDLES)
        return forms.handles(_out(found))

    def _read_nv(self, index: int) -> bytes:
        if index not in self._handles(_NV_FIRST):
            return b""
        handle = self._esys.tr_from_tpmpublic(index)
        try:
            about, _ = self._esys.nv_read_public(handle)
            described = _out(about)  # a TPM2B_NV_PUBLIC ends in the index's size
            (size,) = struct.unpack(">H", described[-2:])
            parts = []
            for at in range(0, size, _NV_CHUNK):
                part = self._esys.nv_read(handle, min(_NV_CHUNK, size - at), at)
                parts.append(unsized(_out(part)))
            return b"".join(parts)
        finally:
            self._esys.tr_close(handle)


def _out(value: Any) -> bytes:
    data = value.marshal()
    return bytes(data)
