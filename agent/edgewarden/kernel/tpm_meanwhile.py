"""A quote and a signature that are asked for, worked beside, and fetched: a TPM takes longer for
either than all else that evidence takes (tpm.py decides what is asked).

The binding has every command in one call only, which blocks. tpm2-tss itself has each in two
(ESAPI specification 1.0 §7: ``Esys_*_Async`` and ``_Finish``), and the binding's library lends
them. Between the two the caller's pieces of work are taken one by one; after each the answer is
asked for without waiting. A second thread would do the same and costs more: its calls to the
kernel and the TPM's answers take the interpreter's lock from each other (look at 739 files: 3.6 ms
of a core alone, 3.9 and the TPM kept waiting 1.3 ms beside it).

    beside = Beside(library(tpm2_pytss), iter(work))
    attest, signature = quote(beside, esys, ak, arguments)      some of work is done

What the C library allotted is copied and given back here; nothing of it leaves. Raises the
binding's TSS2_Exception, for tpm.py to name. A piece of work that raises does so after the answer
is in: between the halves of a command there is no room for another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

Pieces = Iterator[object]

_BINDING = "tpm2_pytss._libtpm2_pytss"
_LAYER, _CODE, _TRY_AGAIN = 0x00FF0000, 0xFFFF, 9  # tss2_common.h: TSS2_BASE_RC_TRY_AGAIN
_AT_ONCE, _WAIT = 0, -1  # tss2_tcti.h: TSS2_TCTI_TIMEOUT_IMMEDIATE, _BLOCK
_PASSWORD, _NONE = 0x0FF, 0xFFF  # tss2_esys.h: ESYS_TR_PASSWORD, ESYS_TR_NONE
_MAX_SIGNATURE_BYTES = 1024  # TPMT_SIGNATURE of the largest RSA key that tpm2-tss knows
_DONE = object()


def library(binding: Any) -> Library | None:
    """The C library below a binding; None where it keeps it elsewhere: ask in one call then."""
    try:
        return Library(binding, importlib.import_module(_BINDING))
    except (ImportError, AttributeError):
        return None


class Library:
    """The C library, and how its refusals are raised."""

    def __init__(self, binding: Any, module: Any) -> None:
        self.lib, self.ffi = module.lib, module.ffi
        self._fault = binding.TSS2_Exception

    def check(self, code: int) -> None:
        """Raise what the library answered, unless it is success."""
        if code:
            raise self._fault(code)

    def signature(self, found: Any) -> bytes:
        """TPMT_SIGNATURE that a ``TPMT_SIGNATURE **`` leads to; gives it back."""
        try:
            data = self.ffi.new(f"uint8_t[{_MAX_SIGNATURE_BYTES}]")
            end = self.ffi.new("size_t *")
            marshal = self.lib.Tss2_MU_TPMT_SIGNATURE_Marshal
            self.check(marshal(found[0], data, _MAX_SIGNATURE_BYTES, end))
            return bytes(self.ffi.buffer(data, end[0]))
        finally:
            self.lib.Esys_Free(found[0])


class Beside(NamedTuple):
    """By whom a command is sent and fetched, and what is done between."""

    library: Library
    pieces: Pieces

    def finished(self, context: Any, finish: Callable[[], int]) -> None:
        """Return when a command that was sent is at its end; raises what it ended with."""
        timeout = self.library.lib.Esys_SetTimeout
        self.library.check(finished(finish, lambda ms: timeout(context, ms), self.pieces))


def quote(beside: Beside, esys: Any, key: Any, arguments: Sequence[Any]) -> tuple[bytes, bytes]:
    """TPM2_Quote: (TPMS_ATTEST, TPMT_SIGNATURE).

    Args:
        arguments: TPM2B_DATA, TPMT_SIG_SCHEME, TPML_PCR_SELECTION of the binding.
    """
    library, context = beside.library, esys._ctx
    lib, ffi, given = library.lib, library.ffi, [one._cdata for one in arguments]
    library.check(lib.Esys_Quote_Async(context, key, _PASSWORD, _NONE, _NONE, *given))
    attest, signature = ffi.new("TPM2B_ATTEST **"), ffi.new("TPMT_SIGNATURE **")
    beside.finished(context, lambda: lib.Esys_Quote_Finish(context, attest, signature))
    try:
        found = attest[0]
        said = bytes(ffi.buffer(found.attestationData, found.size))
    finally:
        lib.Esys_Free(attest[0])
    return said, library.signature(signature)


def sign(beside: Beside, esys: Any, key: Any, arguments: Sequence[Any]) -> bytes:
    """TPM2_Sign: TPMT_SIGNATURE.

    Args:
        arguments: TPM2B_DIGEST, TPMT_SIG_SCHEME, TPMT_TK_HASHCHECK of the binding.
    """
    library, context = beside.library, esys._ctx
    lib, given = library.lib, [one._cdata for one in arguments]
    library.check(lib.Esys_Sign_Async(context, key, _PASSWORD, _NONE, _NONE, *given))
    signature = library.ffi.new("TPMT_SIGNATURE **")
    beside.finished(context, lambda: lib.Esys_Sign_Finish(context, signature))
    return library.signature(signature)


def finished(finish: Callable[[], int], timeout: Callable[[int], object], pieces: Pieces) -> int:
    """The code a command ends with; pieces are taken until then, or until there are none left."""
    timeout(_AT_ONCE)
    try:
        while _again(code := finish()):
            if next(pieces, _DONE) is _DONE:
                break
    except BaseException:
        _to_the_end(finish, timeout)
        raise
    finally:
        timeout(_WAIT)
    return _to_the_end(finish, timeout) if _again(code) else code


def _to_the_end(finish: Callable[[], int], timeout: Callable[[int], object]) -> int:
    timeout(_WAIT)
    while _again(code := finish()):  # also where the TPM said "later" and was sent it once more
        continue
    return code


def _again(code: int) -> bool:
    return bool(code & _LAYER) and code & _CODE == _TRY_AGAIN
