"""A silo in buffered rounds: it trains ahead of the session that takes its update, from a model it was shown before.

Training is charged when it begins, under the round and attempt whose announcement it began from; a silo begins once for
each, so that names are new to its ledger. The update goes to one session, whichever is open when training is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from protocols.errors import FaultReason, ServerFault, UsageError
from protocols.shape import ArraySource, BasedVector, Chunk, Entropy, Need, Reply
from secfl.encoding import Encoder, EncodingScheme
from secfl.federation.silo import Inside, LocalTraining, Silo, Vector, _note, _Open
from secfl.privacy.ledger import Reservation

__all__ = ["BufferedSilo", "staleness_units"]

UNITS = 64
"""Weight of an update from the newest model under staleness weights, in public integer units."""


def staleness_units(staleness: Literal["none", "polynomial"], window: int) -> tuple[int, ...]:
    """Public integer weight of an update from a model s versions old, for s from 0 to `window`.

    ``polynomial`` is (1 + s)^-1/2 (Nguyen et al. 2022, FedBuff), to the nearest of `UNITS` steps.
    """
    if staleness == "none":
        return (1,) * (window + 1)
    return tuple(round(UNITS / math.sqrt(1 + age)) for age in range(window + 1))


@dataclass(frozen=True)
class _Work:
    """A finished update that no session has seen."""

    base: bytes
    update: Vector = field(repr=False)
    entropy: Entropy = field(repr=False)
    reservation: Reservation | None


class BufferedSilo(Silo):
    """See `Silo`.

    :param units: see `staleness_units`; the window that this silo agreed to is as long.
    """

    def __init__(self, *arguments: Any, units: tuple[int, ...], **options: Any) -> None:
        super().__init__(*arguments, **options)
        training, scheme = options["training"], options["scheme"]
        if not isinstance(training, LocalTraining) or not isinstance(scheme, EncodingScheme):
            raise UsageError("buffered rounds take updates as they are: no noise that counts on a sum")
        self._local, self._encoding = training, scheme
        self._units = units
        self._seen: dict[int, bytes] = {}
        self._began: set[tuple[int, int]] = set()
        self._work: _Work | None = None

    def announced(self, header: bytes) -> None:
        """Learn of a session, whether or not this silo takes part: remember which model is whose round's.

        A model that it was once told is a round's stays that round's, in every later window too: otherwise it refuses.
        So silos in one sum that were told of the same sessions agree on each model of the window.

        :raises ServerFault: CONTEXT_MISMATCH, another model than before for the same round.
        """
        need = self._inspected(header)
        self._check_window(need)
        self._seen[need.parameters.round_number] = need.context_hash

    def begin(self, header: bytes, context: bytes) -> None:
        """Reserve, then train from the model of an announced session.

        :raises BudgetExceeded: the ledger refuses; nothing was trained.
        :raises ServerFault: see `announced`; or the model is not the one that was announced.
        :raises UsageError: there is an update already, or training began from this announcement before.
        """
        need = self._inspected(header)
        self._check_window(need)
        self._check_agreed(need, context)
        parameters = need.parameters
        name = parameters.round_number, parameters.attempt
        if self._work is not None or name in self._began or name[0] not in self._seen:
            raise UsageError(f"{self.identity.id!r} cannot begin to train at round {name[0]}, attempt {name[1]}")
        reservation = self._reserve(parameters)
        self._began.add(name)
        try:
            state = np.frombuffer(context, np.dtype("<f4")).astype(np.float32)
            entropy = self._randomness(str(self.identity.id), *name)
            self._work = _Work(need.context_hash, self._local.update(state, entropy), entropy, reservation)
        except Exception as error:
            self._give_back(reservation, error)
            raise

    def fits(self, header: bytes) -> bool:
        """Whether a session still takes updates from the model that this silo's started from."""
        return self._work is not None and self._work.base in self._inspected(header).bases

    def drop(self) -> None:
        """Void an update that was not sent."""
        work, self._work = self._work, None
        if work is not None and work.reservation is not None and self.ledger is not None:
            self.ledger.void(work.reservation, "no session took updates from this model any more; nothing was sent")

    def _contribute(self, session: _Open, need: Need, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """Weight by staleness, encode, protect, record `sending`: only then does the reply leave this method."""
        self._check_window(need)
        self._check_agreed(need, context)
        work, self._work = self._work, None  # to this session or to none
        if work is None:
            raise UsageError(f"{self.identity.id!r} has no update to contribute")
        self._open.forget(need.session_id)
        try:
            if work.base not in need.bases:
                raise UsageError(f"{self.identity.id!r}: the session takes no update from model {work.base.hex()[:16]}")
            weight = self._weight() * self._units[need.bases.index(work.base)]
            words, local = Encoder(self._encoding, work.entropy, self._local.update_layout).encode(work.update, weight)
            reply = session.party.handle(header, chunks, vector=BasedVector(ArraySource(words), work.base))
            if work.reservation is not None and self.ledger is not None:
                self.ledger.sending(work.reservation)
        except Exception as error:
            self._give_back(work.reservation, error)
            raise
        if self._notes is not None:
            self._notes(_note(need.parameters, Inside(clipped=local.clipped_count), words.size))
        session.sending = work.reservation
        return reply

    def _inspected(self, header: bytes) -> Need:
        return self._party().inspect(header)

    def _check_window(self, need: Need) -> None:
        """Hold a window, newest model first, against the models that earlier announcements named.

        Its older models must be those of the sessions before, each once, as far back as this silo was told of every
        session; what it was not told of it cannot hold against anybody.
        """
        number = need.parameters.round_number
        if len(need.bases) > len(self._units):
            detail = f"a window of {len(need.bases) - 1} older models; agreed: {len(self._units) - 1}"
            raise self._mismatch(need, detail)
        if self._seen.get(number, need.context_hash) != need.context_hash:
            raise self._mismatch(need, f"the model of round {number} is not the one that was announced")
        told = [(number, need.context_hash)]
        while (earlier := number - 1) in self._seen:
            number = earlier
            if self._seen[number] != told[-1][1]:
                told.append((number, self._seen[number]))
        for base, (session, model) in zip(need.bases, told, strict=False):
            if base != model:
                raise self._mismatch(need, f"the model of round {session} is not the one that was announced")

    def _mismatch(self, need: Need, detail: str) -> ServerFault:
        session = need.session_id.hex()[:16]
        return ServerFault(FaultReason.CONTEXT_MISMATCH, detail, phase=need.phase, session=session)
