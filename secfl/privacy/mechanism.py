"""The distributed discrete Gaussian mechanism: vectors to words with a share of noise, and the sum of words back.

Everything here follows from public constants, the same for all parties of a session and hashed into it. A party's
vector is clipped, brought to fixed point (`fixed_point`), dithered to steps of 2^-f, and gets its share of discrete
Gaussian noise (`NoisePlan`); words are its residues modulo 2^b. Neighbouring sums differ by at most Delta_2 steps,
whatever floating point did: from the clip on, all arithmetic is on whole numbers that are exact.

Mode C clips one vector a party (`encode`), mode B the gradient of each record (`record_sum`, then `encode_sum`).

Optional, between fixed point and dither: a random subset of the coordinates, the same for all, and a rotation
(`Transform`), which on whole numbers is exact as well. With them few bits suffice; then sums may wrap modulo 2^b with a
stated probability. A wrap costs accuracy, never privacy: what is opened is the residue of a sum that is private.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, PrivacyError, UsageError
from protocols.primitives.ring import MAXIMAL_BITS, Words, centre, check_words, reduce_in_place, word_dtype
from protocols.primitives.sampling import Entropy
from secfl.encoding.canonical import decode_canonical
from secfl.encoding.scheme import MINIMAL_BITS
from secfl.encoding.transform import Transform
from secfl.encoding.vectors import UNNAMED
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.distributed import NoisePlan, SumRounding, rounded_l2_bound, share_total_variation
from secfl.privacy.fixed_point import DITHER_BITS, FixedPoint, RecordSum, Whole, dithered, square_norm
from secfl.privacy.sizes import SCALES, Sizes, chosen_scale

__all__ = ["DistributedMechanism", "MechanismReport", "delta_of_sampler"]

_DIGEST_BYTES = 32
_MAXIMAL_BYTES = 1024
_LENGTHS = {"clip_norm": (2.0**-100, 2.0**100), "noise_multiplier": (1e-3, 1e6)}


@dataclass(frozen=True)
class MechanismReport:
    """What encoding met at one party. It depends on records and never leaves the party.

    :param left_out: vectors or records that were not finite and count as zero.
    :param records: in the sum; 1 for `DistributedMechanism.encode`.
    """

    left_out: int = field(repr=False)
    records: int = field(repr=False)


def delta_of_sampler(total_variation: float, shares: int, dimension: int, steps: int, epsilon: float) -> float:
    """What the sampler's distance from the exact distribution adds to delta: (1 + e^epsilon) m d T eta.

    :param total_variation: eta, of one draw: `DistributedMechanism.total_variation`.
    :param shares: m, that are drawn, not only those that are unknown.
    """
    return (1 + math.exp(epsilon)) * shares * dimension * steps * total_variation


class DistributedMechanism(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Public constants of one secure sum with distributed noise, and the two ways through it.

    :param clip_norm: c, L2 bound of what one unit of privacy adds to the sum.
    :param fraction_bits: f; the sum travels in steps of 2^-f.
    :param noise_multiplier: z, of the sum's noise over Delta_2 (not over the clip), against the strongest adversary.
    :param dimension: d, coordinates of a party's vector.
    :param minimum_contributors: T_min; a smaller set is never opened.
    :param colluding: c_max, contributors whose noise does not count.
    :param maximum_contributors: n_max.
    :param maximum_records: B_max, records in one party's sum (mode B); 1 in mode C.
    :param modulus_bits: b.
    :param layout_digest: of the vector's layout, 32 bytes.
    :param rounding: ``conditional`` in mode C only.
    :param kept: coordinates of the random subset that a sum carries; 0 for all.
    :param rotation_block: coordinates of a rotated block, one of `secfl.encoding.rotation.BLOCKS`; 0 for no rotation.
    :param wrap_probability: how probable a sum may be that wraps at some coordinate; 0 for never.
    :raises PrivacyError: values under which no bound holds, or a sum that 2^b cannot hold.
    """

    kind: Literal["distributed-discrete-gaussian/1"] = "distributed-discrete-gaussian/1"
    clip_norm: float
    fraction_bits: int
    noise_multiplier: float
    dimension: int
    minimum_contributors: int
    colluding: int
    maximum_contributors: int
    maximum_records: int
    modulus_bits: int
    layout_digest: bytes
    rounding: SumRounding = "unconditional"
    kept: int = 0
    rotation_block: int = 0
    wrap_probability: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.wrap_bound > self.wrap_probability:
            raise PrivacyError(
                f"modulus_bits: {self.modulus_bits}: a sum of {self.maximum_contributors} contributors may wrap with "
                f"probability {self.wrap_bound:.2g}; allowed: {self.wrap_probability:g}, by a coarser scale or more "
                f"bits (never with {self._sizes.bits})"
            )
        if self._fine_bits < 0:
            raise PrivacyError(f"fraction_bits: {self.fraction_bits} take sums beyond 2^53; allowed: a coarser scale")
        self._fixed_point()

    @classmethod
    def choose(  # noqa: PLR0913  an argument for each public constant
        cls,
        *,
        clip_norm: float,
        noise_multiplier: float,
        dimension: int,
        minimum_contributors: int,
        maximum_contributors: int,
        layout_digest: bytes,
        colluding: int = 0,
        maximum_records: int = 1,
        rounding: SumRounding = "unconditional",
        kept: int = 0,
        rotation_block: int = 0,
        fraction_bits: int | None = None,
        modulus_bits: int | None = None,
        wrap_probability: float = 0.0,
    ) -> DistributedMechanism:
        """Mechanism for public constants: the finest scale whose sums fit 32 bits, or a finer one if that costs noise.

        Beyond 32 bits, up to 64, it is the coarsest scale at which rounding inflates the noise by a thousandth at most.

        :param fraction_bits: fixes the scale; the modulus follows.
        :param modulus_bits: fixes the modulus; the scale is then the finest that keeps to ``wrap_probability``.
        :raises PrivacyError: no scale does, or a share of noise below 4 steps; see the class.
        """
        _check_length("clip_norm", float(clip_norm))
        _check_length("noise_multiplier", float(noise_multiplier))
        if not (0 <= colluding < minimum_contributors <= maximum_contributors):
            raise PrivacyError(
                f"colluding: {colluding} of {minimum_contributors} to {maximum_contributors} contributors; allowed: "
                "fewer than the minimum, which is not above the maximum"
            )
        length = Transform(dimension, kept, rotation_block).length

        def sizes(fraction: int) -> Sizes:
            steps = math.ldexp(clip_norm, fraction)
            bound = rounded_l2_bound(steps, length, rounding)
            share = noise_multiplier * bound / math.sqrt(minimum_contributors - colluding)
            return Sizes(steps, share, bound / steps, maximum_contributors, maximum_records, length, rotation_block)

        if fraction_bits is None:
            fraction_bits = chosen_scale(sizes, modulus_bits, wrap_probability)
        return cls(
            clip_norm=float(clip_norm),
            fraction_bits=fraction_bits,
            noise_multiplier=float(noise_multiplier),
            dimension=dimension,
            minimum_contributors=minimum_contributors,
            colluding=colluding,
            maximum_contributors=maximum_contributors,
            maximum_records=maximum_records,
            modulus_bits=sizes(fraction_bits).bits if modulus_bits is None else modulus_bits,
            layout_digest=layout_digest,
            rounding=rounding,
            kept=kept,
            rotation_block=rotation_block,
            wrap_probability=float(wrap_probability),
        )

    # -- what follows from the constants -------------------------------------------------------------------------------

    @property
    def plan(self) -> NoisePlan:
        """The noise: sensitivity, shares, and the event that a ledger charges (``plan.event(...)``)."""
        return NoisePlan(
            clip_norm=self.clip_norm,
            fraction_bits=self.fraction_bits,
            dimension=self.transform.length,
            noise_multiplier=self.noise_multiplier,
            minimum_contributors=self.minimum_contributors,
            colluding=self.colluding,
            rounding=self.rounding,
        )

    @property
    def transform(self) -> Transform:
        """Subset and rotation."""
        return Transform(self.dimension, self.kept, self.rotation_block)

    @property
    def _sizes(self) -> Sizes:
        plan = self.plan
        return Sizes(
            plan.clip_steps,
            plan.share_sigma,
            plan.inflation,
            self.maximum_contributors,
            self.maximum_records,
            plan.dimension,
            self.rotation_block,
        )

    @property
    def largest_entry(self) -> int:
        """Largest magnitude of an entry that one party sends, before it is reduced modulo 2^b."""
        return self._sizes.largest_entry

    @property
    def wrap_bound(self) -> float:
        """Bound on the probability that a sum wraps at some coordinate; see `Sizes.wrap_bound`."""
        return self._sizes.wrap_bound(self.modulus_bits)

    @property
    def word_dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Smallest unsigned dtype that holds ``modulus_bits``."""
        return word_dtype(self.modulus_bits)

    def word_count(self, dimension: int | None = None) -> int:
        """Number of words on the wire.

        :param dimension: of the vector, if the caller wants it compared.
        :raises UsageError: another dimension than the mechanism's.
        """
        if dimension not in (None, self.dimension):
            raise UsageError(f"{dimension} coordinates; the mechanism has {self.dimension}")
        return self.transform.length

    @property
    def total_variation(self) -> float:
        """Bound on the distance of one coordinate's share of noise from the exact distribution, cut tail included."""
        return share_total_variation(self.plan.share_sigma)

    def standard_deviation(self, contributors: int) -> float:
        """Of the noise on a coordinate of the decoded sum; of those that were sent."""
        return math.ldexp(self.plan.share_sigma * math.sqrt(contributors), -self.fraction_bits)

    def describe(self) -> dict[str, int | float | str]:
        """Figures for the user, by name; no secret among them."""
        plan = self.plan
        return {
            "clip_norm": self.clip_norm,
            "noise_multiplier": self.noise_multiplier,
            "step": math.ldexp(1.0, -self.fraction_bits),
            "rounding": self.rounding,
            "noise_inflation_by_rounding": plan.inflation,
            "share_sigma_in_steps": plan.share_sigma,
            "minimum_contributors": self.minimum_contributors,
            "colluding": self.colluding,
            "maximum_contributors": self.maximum_contributors,
            "maximum_records": self.maximum_records,
            "coordinates_sent": plan.dimension,
            "rotation_block": self.rotation_block,
            "modulus_bits": self.modulus_bits,
            "bytes_per_parameter": self.modulus_bits / 8 * plan.dimension / self.dimension,
            "wrap_probability": self.wrap_bound,
        }

    def to_bytes(self) -> bytes:
        """Canonical encoding: what the session carries as its encoding."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, encoded: bytes) -> DistributedMechanism:
        """Inverse of :meth:`to_bytes`.

        :raises EncodingError: anything but what :meth:`to_bytes` gives for a valid mechanism.
        """
        return decode_canonical(encoded, cls, "distributed mechanism", _MAXIMAL_BYTES)

    # -- a party's side ------------------------------------------------------------------------------------------------

    def encode(self, vector: npt.NDArray[np.float32], seed: bytes, entropy: Entropy) -> tuple[Words, MechanismReport]:
        """Clip a party's vector, dither it to steps, add its share of noise (mode C).

        A vector that is not finite counts as zero, and its noise is sent all the same.

        :param vector: float32, shape (d,).
        :param seed: public, of this sum alone: the session's id.
        :param entropy: ``os.urandom``; another source in tests only.
        :returns: words below 2^b, shape (word_count(),), and what stays at the party.
        :raises EncodingError: another shape or type.
        :raises PrivacyError: a bound is exceeded after all, which is a bug: nothing may be sent.
        :raises UsageError: the mechanism is one for sums of records.
        """
        if self.maximum_records != 1:
            raise UsageError("the mechanism is one for sums of records: encode_sum")
        if vector.dtype != np.float32 or vector.shape != (self.dimension,):
            raise EncodingError(UNNAMED, f"float32 of shape ({self.dimension},) expected")
        finite = bool(np.isfinite(vector).all())  # all of it, whatever the subset: the same for every seed
        sent = self.transform.select(vector if finite else np.zeros_like(vector), seed)
        whole = self._fixed_point().clipped(sent)
        return self._words(whole, seed, entropy), MechanismReport(left_out=int(not finite), records=1)

    def record_sum(self, margin: float = 0.0) -> RecordSum:
        """An empty sum of clipped per-record gradients, for one step (mode B).

        :param margin: see `RecordSum`.
        """
        return RecordSum(self._fixed_point(), self.maximum_records, margin)

    def encode_sum(self, records: RecordSum, seed: bytes, entropy: Entropy) -> tuple[Words, MechanismReport]:
        """Dither a step's sum to steps and add the party's share of noise (mode B); see :meth:`encode`.

        :param records: from :meth:`record_sum`; an empty one gives noise alone.
        """
        if records.point != self._fixed_point():
            raise UsageError("the sum was begun by another mechanism")
        words = self._words(self.transform.select(records.total, seed), seed, entropy)
        return words, MechanismReport(left_out=records.left_out, records=records.records)

    def _fixed_point(self) -> FixedPoint:
        """Of one vector as clipped: in mode C what the subset leaves of it, in mode B all of a record's gradient."""
        clipped = self.dimension if self.maximum_records > 1 else self.kept or self.dimension
        return FixedPoint(self.clip_norm, self.fraction_bits + self._fine_bits, clipped)

    @property
    def _fine_bits(self) -> int:
        """r: bits below a step before the rotation, which adds its own: as many as 32 of dither and 2^53 leave."""
        largest = math.ceil(self.plan.clip_steps * self.maximum_records)
        return min(DITHER_BITS, 53 - largest.bit_length()) - self.transform.side_bits

    def _words(self, selected: Whole, seed: bytes, entropy: Entropy) -> Words:
        plan, bits, transform = self.plan, self.modulus_bits, self.transform
        whole, dither_bits = transform.rotate_whole(selected, seed), self._fine_bits + transform.side_bits
        steps = dithered(whole, dither_bits, entropy)
        while self.rounding == "conditional" and square_norm(steps) > math.floor(plan.l2_sensitivity**2):
            steps = dithered(whole, dither_bits, entropy)
        noise = DiscreteGaussian(plan.share_sigma).sample(steps.size, entropy)
        tail = math.floor(plan.noise_tail)
        np.clip(noise, -tail, tail, out=noise)
        noise += steps
        if int(np.abs(noise).max()) > self.largest_entry:
            raise PrivacyError("modulus_bits: an entry beyond its bound, which is a bug: nothing is sent")
        words = noise.astype(word_dtype(bits))
        reduce_in_place(words, bits)
        return words

    # -- the server's side ---------------------------------------------------------------------------------------------

    def decode(self, total: Words, contributors: int, seed: bytes) -> npt.NDArray[np.float64]:
        """Noised sum of the contributors' vectors from the sum of their words.

        :param total: words below 2^b, shape (word_count(),).
        :param contributors: how many are in the sum.
        :param seed: as at the parties.
        :returns: float64, shape (d,): the sum, not divided.
        :raises EncodingError: another length, or a sum out of the contributors' reach.
        :raises UsageError: fewer contributors than T_min, more than n_max, or words of another dtype.
        """
        check_words(total, self.modulus_bits)
        if not self.minimum_contributors <= contributors <= self.maximum_contributors:
            raise UsageError(
                f"contributors: {contributors}; allowed: {self.minimum_contributors} to {self.maximum_contributors}"
            )
        if total.size != self.word_count():
            raise EncodingError(UNNAMED, f"{total.size} words, the mechanism has {self.word_count()}")
        if int(total.max()) >> self.modulus_bits:
            raise EncodingError(UNNAMED, f"a word has more than {self.modulus_bits} bits")
        signed = centre(total, self.modulus_bits)
        reach = contributors * self.largest_entry
        if int(signed.max()) > reach or int(signed.min()) < -reach:
            raise EncodingError(UNNAMED, "the sum is out of its contributors' reach")
        return self.transform.inverse(np.ldexp(signed.astype(np.float64), -self.fraction_bits), seed)


def _check_length(name: str, value: float) -> None:
    low, high = _LENGTHS[name]
    if type(value) is not float or not low <= value <= high:
        raise PrivacyError(f"{name}: {value!r}; allowed: a float from {low:.3g} to {high:.3g}")


def _check(mechanism: DistributedMechanism) -> None:
    def refused(name: str, allowed: str) -> PrivacyError:
        return PrivacyError(f"{name}: {getattr(mechanism, name)!r}; allowed: {allowed}")

    for name in _LENGTHS:
        _check_length(name, getattr(mechanism, name))
    for name, least, most in (
        ("fraction_bits", SCALES[0], SCALES[-1]),
        ("dimension", 1, 2**40),
        ("minimum_contributors", 1, mechanism.maximum_contributors),
        ("maximum_contributors", 2, 2**24),
        ("maximum_records", 1, 2**32),
        ("modulus_bits", MINIMAL_BITS, MAXIMAL_BITS),
    ):
        value = getattr(mechanism, name)
        if type(value) is not int or not least <= value <= most:
            raise refused(name, f"a whole number from {least} to {most}")
    if type(mechanism.layout_digest) is not bytes or len(mechanism.layout_digest) != _DIGEST_BYTES:
        raise PrivacyError(f"layout_digest: allowed: {_DIGEST_BYTES} bytes")
    if type(mechanism.wrap_probability) is not float or not 0 <= mechanism.wrap_probability < 1:
        raise refused("wrap_probability", "a float from 0 to below 1")
    if mechanism.rounding not in ("unconditional", "conditional"):
        raise refused("rounding", "'unconditional' or 'conditional'")
    if mechanism.rounding == "conditional" and mechanism.maximum_records != 1:
        raise refused("rounding", "'unconditional' where a party sums records")
