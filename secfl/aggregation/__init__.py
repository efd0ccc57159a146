"""Secure sums and means for pipelines of one's own: numpy only.

`SecureAggregator` runs the whole protocol in one process, as a simulation. `AggregationServer` and `AggregationParty`
are the two ends for a deployment; they agree on an `Agreement` and exchange bytes.
"""

from __future__ import annotations

from secfl.aggregation.aggregator import SecureAggregator
from secfl.aggregation.agreement import Agreement, Limits, Rules
from secfl.aggregation.framing import Frame, FrameDecoder, FrameLimits, Message, write_frames
from secfl.aggregation.parties import AggregationParty, AggregationServer, Outgoing
from secfl.aggregation.result import AggregationResult
from secfl.aggregation.weights import Weights

__all__ = [
    "AggregationParty",
    "AggregationResult",
    "AggregationServer",
    "Agreement",
    "Frame",
    "FrameDecoder",
    "FrameLimits",
    "Limits",
    "Message",
    "Outgoing",
    "Rules",
    "SecureAggregator",
    "Weights",
    "write_frames",
]
