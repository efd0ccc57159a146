"""CKKS by TenSEAL (Microsoft SEAL): the one module that imports it, and only when it is used.

TenSEAL keeps the interpreter lock while it works and starts one thread with each context (`n_threads=1`; no operation
used here runs on it). SEAL draws keys and noise from a generator of its own, seeded by the operating system for each
ciphertext.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.ckks.blocks import unwrap, wrap
from protocols.ckks.records import CkksRecord, record
from protocols.errors import FaultReason, MissingExtra, PeerFault, UsageError
from protocols.primitives.secrecy import HoldsSecret

__all__ = ["MAXIMUM_CONTEXT_BYTES", "Scheme", "public_scheme"]

MAXIMUM_CONTEXT_BYTES = 2**22
"""Largest public context that is looked at; those of the records have 100 to 350 kB."""

Floats = NDArray[np.float64]

# What pybind11 makes of the C++ exceptions that SEAL and TenSEAL throw at input they refuse: std::invalid_argument, and
# std::logic_error and std::runtime_error. Running out of memory (MemoryError) is not the input's fault.
_REFUSED = (ValueError, RuntimeError)


def _tenseal() -> Any:
    """The library.

    :raises MissingExtra: it is not installed.
    """
    try:
        import tenseal
    except ImportError:
        raise MissingExtra("the CKKS protocol", "he") from None
    return tenseal


class Scheme(HoldsSecret):
    """One record with a key: public, or with the secret key as well.

    :param context: TenSEAL's, of this record and without keys for anything but encryption and decryption.
    """

    __slots__ = ("_context", "_native", "record")

    def __init__(self, used: CkksRecord, context: Any) -> None:
        self.record = used
        self._context = context
        self._native = _tenseal()._ts_cpp.CKKSVector

    @classmethod
    def generate(cls, used: CkksRecord) -> Scheme:
        """A fresh key pair, from SEAL's generator."""
        return cls(used, _fresh_context(used))

    @classmethod
    def load(cls, used: CkksRecord, serialised: bytes) -> Scheme:
        """What `public_bytes` or `secret_bytes` gave.

        :raises PeerFault: BAD_KEY: it is none, it is of other parameters, or it holds keys that nobody needs.
        """
        tenseal = _tenseal()
        if len(serialised) > MAXIMUM_CONTEXT_BYTES:
            detail = f"context of {len(serialised)} bytes, at most {MAXIMUM_CONTEXT_BYTES}"
            raise PeerFault(FaultReason.TOO_LARGE, detail)
        try:
            context = tenseal.Context.load(serialised, n_threads=1)
            found = _identification(context)
            encrypts = context.has_public_key()
        except _REFUSED:
            raise PeerFault(FaultReason.BAD_KEY, "not a context with a public key that TenSEAL reads") from None
        if found != _expected(used):
            raise PeerFault(FaultReason.BAD_KEY, f"the context is not of CKKS record {used.id}")
        if context.has_galois_keys() or context.has_relin_keys():
            raise PeerFault(FaultReason.BAD_KEY, "the context holds evaluation keys")
        if encrypts == context.has_secret_key():
            raise PeerFault(FaultReason.BAD_KEY, "the context does not hold either a public or a secret key")
        return cls(used, context)

    @property
    def secret(self) -> bool:
        """Whether it holds the secret key."""
        return bool(self._context.has_secret_key())

    def public_bytes(self) -> bytes:
        """The context with the public key alone.

        Only a context loaded from these bytes is public: TenSEAL's ``make_context_public`` keeps a decryptor.
        """
        return bytes(self._context.serialize(True, False, False, False))

    def secret_bytes(self) -> bytes:
        """The context with the secret key alone, to be sealed into the key holder's file: nowhere else."""
        return bytes(self._context.serialize(False, True, False, False))

    def encrypt(self, integers: NDArray[np.int64]) -> bytes:
        """SEAL's serialisation of a fresh ciphertext.

        :param integers: one a slot.
        """
        if integers.shape != (self.record.slots,):
            raise UsageError(f"a ciphertext has {self.record.slots} slots, not {integers.shape}")
        return self.dump(self._native(self._context.data, integers.astype(np.float64).tolist()))

    def parse(self, serialised: bytes) -> Any:
        """A ciphertext, if it is one of this record: fresh or a sum of such.

        :param serialised: whose opening is checked, see `protocols.ckks.blocks.from_block`.
        :raises PeerFault: BAD_CIPHERTEXT.
        """
        try:
            ciphertext = self._native(self._context.data, wrap(serialised, self.record))
            (content,) = ciphertext.ciphertext()
        except _REFUSED:
            raise PeerFault(FaultReason.BAD_CIPHERTEXT, "SEAL does not read it as a ciphertext") from None
        found = (content.parms_id(), content.size(), content.scale, content.is_ntt_form())
        if found != (self._first_parameters(), 2, self.record.scale, True):
            detail = f"not of the session's parameters (CKKS record {self.record.id})"
            raise PeerFault(FaultReason.BAD_CIPHERTEXT, detail)
        if content.is_transparent():
            raise PeerFault(FaultReason.BAD_CIPHERTEXT, "transparent: it encrypts nothing")
        return ciphertext

    def dump(self, ciphertext: Any) -> bytes:
        """SEAL's serialisation."""
        return unwrap(ciphertext.serialize(), self.record)

    def add(self, ciphertext: Any, other: Any) -> None:
        """Add `other` to a ciphertext, in place.

        :raises PeerFault: BAD_CIPHERTEXT, the two cancel out; the first is spoilt.
        """
        try:
            ciphertext.add_(other)
        except _REFUSED:
            raise PeerFault(FaultReason.BAD_CIPHERTEXT, "it cancels out what it is added to") from None

    def decrypt(self, ciphertext: Any) -> Floats:
        """The slots' approximate content, one float64 each: not to be released, see `protocols.ckks.slots`.

        :raises UsageError: this is a public context.
        """
        if not self.secret:
            raise UsageError("a public context cannot decrypt")
        return np.array(ciphertext.decrypt(), np.float64)

    def _first_parameters(self) -> Any:
        return _expected(self.record)[0]


@lru_cache(maxsize=8)
def public_scheme(number: int, serialised: bytes) -> Scheme:
    """A public context, read once.

    :raises UsageError: unknown record.
    :raises PeerFault: BAD_KEY or TOO_LARGE; BAD_KEY as well if it holds a secret key.
    """
    scheme = Scheme.load(record(number), serialised)
    if scheme.secret:
        raise PeerFault(FaultReason.BAD_KEY, "the context holds a secret key")
    return scheme


def _fresh_context(used: CkksRecord) -> Any:
    tenseal = _tenseal()
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, used.degree, coeff_mod_bit_sizes=list(used.moduli), n_threads=1)
    context.global_scale = used.scale
    # Nothing is to be rescaled or switched to other parameters behind our back.
    context.auto_relin = context.auto_rescale = context.auto_mod_switch = False
    return context


def _identification(context: Any) -> tuple[Any, ...]:
    """SEAL's ids (hashes) of the parameters of ciphertexts and of keys; scale and flags."""
    native = context.seal_context().data
    flags = (context.auto_relin, context.auto_rescale, context.auto_mod_switch)
    return native.first_parms_id(), native.key_parms_id(), context.global_scale, flags


@lru_cache(maxsize=8)
def _expected(used: CkksRecord) -> tuple[Any, ...]:
    """What `_identification` gives for this record."""
    return _identification(_fresh_context(used))
