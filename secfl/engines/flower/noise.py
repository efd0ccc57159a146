"""Client-level differential privacy (mode C) for apps of somebody else: clip and noise in the mod, ledger at the node.

The app trains as it likes; the mod clips its update as a whole and adds a share of discrete Gaussian noise
(`secfl.privacy.mechanism`). The server proposes the mechanism, each node holds it against ``[privacy]`` in its own
``node.toml`` and charges its own ledger; the node's numbers decide, the server's are a proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from protocols.errors import ConfigError, PolicyRefused, UsageError
from protocols.identity import Identity
from protocols.primitives.ring import Words
from protocols.session import ClientPolicy
from protocols.shape import Entropy, Need
from secfl.encoding import TensorLayout
from secfl.federation.silo import Inside, Scheme, Silo, Vector
from secfl.privacy import Ledger, Lineage, PrivacyBudget, check_delta
from secfl.privacy.accounting import choose_order
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.mechanism import DistributedMechanism

__all__ = ["ClientLevelNoise", "NodePrivacy", "NoisedSilo", "NoisedUpdate", "check_mechanism", "open_node_ledger"]

Positive = Annotated[float, Field(gt=0)]
LEDGER = "clients.ledger"


@dataclass(frozen=True)
class ClientLevelNoise:
    """What a server proposes to its nodes; see `SecureAggregation`.

    :param clip_norm: L2 bound of a client's whole update (trained model less global model).
    :param noise_multiplier: standard deviation of the noise in the sum over the bound of one update's effect on it,
        when the fewest contributors take part and those assumed to collude leave their noise out.
    """

    clip_norm: float
    noise_multiplier: float

    def mechanism(self, layout: TensorLayout, cohort: int, minimum: int, colluding: int) -> DistributedMechanism:
        """The mechanism of a session.

        :raises PrivacyError: no mechanism has these constants.
        """
        return DistributedMechanism.choose(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=layout.size,
            minimum_contributors=minimum,
            maximum_contributors=max(minimum, cohort),
            colluding=colluding,
            layout_digest=layout.digest,
        )


class NodePrivacy(BaseModel):
    """``[privacy]`` of ``node.toml``: the node takes part under at least this much noise and within this budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip_norm: Positive
    """Largest clip norm that a server may propose."""
    noise_multiplier: Positive
    """Smallest noise multiplier that it may propose."""
    clients: Annotated[int, Field(ge=2)]
    """Public number of clients in the federation; delta is measured against it."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)]
    """For how many rounds the budget is meant; it chooses the order of the filter."""
    source: Annotated[str, Field(min_length=1)] = "not described"


def check_mechanism(proposed: DistributedMechanism, privacy: NodePrivacy) -> None:
    """Hold a proposal against the node's own numbers.

    :raises PolicyRefused: naming the number.
    """
    if proposed.maximum_records != 1:
        raise PolicyRefused("maximum records", proposed.maximum_records, "1: one update a client")
    if proposed.clip_norm > privacy.clip_norm:
        raise PolicyRefused("clip norm", proposed.clip_norm, f"at most {privacy.clip_norm:g}")
    if proposed.noise_multiplier < privacy.noise_multiplier:
        raise PolicyRefused("noise multiplier", proposed.noise_multiplier, f"at least {privacy.noise_multiplier:g}")


def open_node_ledger(folder: Path, identity: Identity, privacy: NodePrivacy, event: AnyPrivacyEvent) -> Ledger:
    """The node's ledger of its whole data, made at the first release.

    :raises PrivacyError: it cannot be used.
    :raises ConfigError: it began with another budget.
    """
    check_delta(privacy.delta, privacy.clients)
    budget = PrivacyBudget(privacy.epsilon, privacy.delta, "client")
    path = folder / LEDGER
    if not path.exists() and not path.with_name(f"{path.name}.mark").exists():
        lineage = Lineage(silo=str(identity.id), name="clients", source=privacy.source, total_records=privacy.clients)
        order = choose_order([event] * privacy.rounds, privacy.delta)
        return Ledger.create(path, identity.signing_key, lineage, budget, order=order)
    ledger = Ledger.open(path, identity.signing_key)
    if ledger.summary().budget != budget:
        ledger.close()
        raise ConfigError(
            "privacy", f"another budget than the one that {path} began with", f"{ledger.summary().budget}"
        )
    return ledger


@dataclass(frozen=True)
class NoisedUpdate:
    """A node's work in a round, see `secfl.federation.silo.Contribution`: the app's update, clipped, with its noise."""

    update: Callable[[Vector, Entropy], Vector]
    event: AnyPrivacyEvent
    layout: TensorLayout
    update_layout: TensorLayout
    bound: tuple[bytes, ...] = ()

    def words(
        self, state: Vector, scheme: Scheme, _weight: Callable[[], int], entropy: Entropy, session: bytes
    ) -> tuple[Words, Inside]:
        """An update that is not finite counts as zero; its noise is sent all the same."""
        if not isinstance(scheme, DistributedMechanism):
            raise UsageError("noise in sums goes with a distributed mechanism")
        words, report = scheme.encode(np.asarray(self.update(state, entropy), np.float32), session, entropy)
        return words, Inside(left_out=report.left_out)


class NoisedSilo(Silo):
    """A silo whose floors also bound what the mechanism assumes of others."""

    def _check_agreed(self, need: Need, context: bytes) -> None:
        scheme, policy = self._scheme, self._policy
        if isinstance(scheme, DistributedMechanism):
            required = _required(policy, need)
            if scheme.colluding < required:
                raise PolicyRefused("noise that is not counted on", scheme.colluding, f"at least {required} shares")
        super()._check_agreed(need, context)


def _required(policy: ClientPolicy, need: Need) -> int:
    return policy.required_collusion_bound(len(need.parameters.cohort))
