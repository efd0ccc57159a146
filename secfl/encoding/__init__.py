"""From named float tensors to words modulo 2^b, and from the words of a sum back to tensors.

``layout`` (names to one flat vector) -> ``clipping`` (L2 norm, range) -> ``codec`` (scale, round, reduce), all under
one ``scheme`` that every party agrees on. Optional, between clipping and rounding: a random subset of the coordinates
(``subset``) and the randomized Hadamard rotation (``rotation``), composed by ``transform``.
"""

from __future__ import annotations

from secfl.encoding.clipping import ClipReport, RangeReport, clip_l2, clip_range, l2_norm, summation_slack
from secfl.encoding.codec import Encoder, LocalReport, decode_mean, decode_sum
from secfl.encoding.layout import TensorEntry, TensorLayout
from secfl.encoding.scheme import EncodingScheme

__all__ = [
    "ClipReport",
    "Encoder",
    "EncodingScheme",
    "LocalReport",
    "RangeReport",
    "TensorEntry",
    "TensorLayout",
    "clip_l2",
    "clip_range",
    "decode_mean",
    "decode_sum",
    "l2_norm",
    "summation_slack",
]
