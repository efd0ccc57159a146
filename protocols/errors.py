"""The whole error hierarchy of secfl.

Verification raises, it never returns a bool. No message, ``repr`` or argument of these exceptions carries a secret or
the content of a vector: they name phases, parties, rules and limits.
"""

from __future__ import annotations

from enum import Enum, unique

__all__ = [
    "BudgetExceeded",
    "ClientFault",
    "ConfigError",
    "EncodingError",
    "FaultReason",
    "LedgerCorrupt",
    "LedgerRolledBack",
    "MissingExtra",
    "PeerFault",
    "PolicyRefused",
    "PrivacyError",
    "ProtocolError",
    "ReportMismatch",
    "SecflError",
    "ServerFault",
    "ThresholdNotMet",
    "UsageError",
]


@unique
class FaultReason(Enum):
    """Why a message must not be. The value is what logs and reports show."""

    MALFORMED = "malformed message"
    TOO_LARGE = "message larger than its bound"
    WRONG_SESSION = "message of another session"
    WRONG_PHASE = "message of another phase"
    WRONG_PARTY = "message of, or for, another party"
    UNKNOWN_PARTY = "party not in the cohort or roster"
    REVOKED_PARTY = "party revoked by the roster"
    DUPLICATE_PARTY = "party listed twice"
    NOT_ORDERED = "list not in canonical order"
    SELF_MISSING = "receiver missing from a list that must hold it"
    TOO_FEW = "list shorter than the required number"
    BAD_SIGNATURE = "signature does not verify"
    BAD_KEY = "public key repeated, of low order or of the wrong length"
    BAD_PATH = "Merkle path does not fit the root"
    BAD_ROOT = "advertisements do not fit their root"
    BAD_CIPHERTEXT = "sealed message does not open"
    BAD_SHARE = "share out of its range or of the wrong length"
    BAD_SECRET = "reconstructed secret does not fit its commitment"  # noqa: S105  a reason, not a password
    NOT_A_SUBSET = "contributors not a subset of those accepted before"
    CHUNK_ORDER = "chunk repeated, missing or out of order"
    CHUNK_LENGTH = "chunk, or number of chunks, of the wrong length"
    ALREADY_ANSWERED = "a different answer to this request is on record"
    CONTEXT_MISMATCH = "context hash differs from the context at hand"
    SPLIT_VIEW = "two different views of one session were signed"


class SecflError(Exception):
    """Root of every error that this project raises on purpose."""


class ProtocolError(SecflError):
    """An error of a protocol session."""


class UsageError(ProtocolError):
    """The caller broke the interface (an argument out of range, a call in the wrong order)."""


class PeerFault(ProtocolError):  # noqa: N818  a fault is the protocol's term for evidence, not a crash
    """A message that must not be.

    :param reason: the violated rule's kind.
    :param rule: number of the rule in the protocol's specification, for instance ``"SA-12"``; empty for the codec.
    :param detail: what was seen, in words that carry no secret.
    :param phase: phase in which it was seen.
    :param session: hex prefix of the session id, if known.
    :param evidence: the signed bytes that prove the fault to a third party, if there are any (never secret).
    """

    def __init__(
        self,
        reason: FaultReason,
        detail: str = "",
        *,
        rule: str = "",
        phase: str = "",
        session: str = "",
        evidence: tuple[bytes, ...] = (),
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.rule = rule
        self.phase = phase
        self.session = session
        self.evidence = evidence
        super().__init__(reason, detail)

    def culprit(self) -> str:
        """Who sent it, as far as that is proven."""
        return "peer"

    def __str__(self) -> str:
        where = " ".join(part for part in (f"[{self.rule}]" if self.rule else "", self.phase) if part)
        text = f"{self.culprit()}: {self.reason.value}"
        if self.detail:
            text += f": {self.detail}"
        return f"{where}: {text}" if where else text


class ClientFault(PeerFault):
    """Proven against one client (or other party of the roster)."""

    def __init__(
        self,
        client: str,
        reason: FaultReason,
        detail: str = "",
        *,
        rule: str = "",
        phase: str = "",
        session: str = "",
        evidence: tuple[bytes, ...] = (),
    ) -> None:
        self.client = client
        super().__init__(reason, detail, rule=rule, phase=phase, session=session, evidence=evidence)

    def culprit(self) -> str:
        """The party that sent it."""
        return f"client {self.client!r}"


class ServerFault(PeerFault):
    """Proven against the server: only it, or who holds its channel, can have sent this."""

    def culprit(self) -> str:
        """Name the server."""
        return "server"


class PolicyRefused(ProtocolError):  # noqa: N818  the design's name
    """What was proposed falls below this party's own floors.

    :param what: the parameter, for instance ``"threshold"``.
    :param proposed: the value that the server proposed.
    :param required: what this party's policy requires, in words or as a number.
    """

    def __init__(self, what: str, proposed: object, required: object, *, rule: str = "") -> None:
        self.what = what
        self.proposed = proposed
        self.required = required
        self.rule = rule
        super().__init__(f"{f'[{rule}] ' if rule else ''}{what}: proposed {proposed}, this party requires {required}")


class ThresholdNotMet(ProtocolError):  # noqa: N818  the design's name
    """Fewer parties answered than the protocol needs; nothing was revealed.

    :param required: number of parties that had to be present.
    :param present: number that were.
    """

    def __init__(self, required: int, present: int, *, phase: str = "") -> None:
        self.required = required
        self.present = present
        self.phase = phase
        super().__init__(f"{f'{phase}: ' if phase else ''}{present} parties present, {required} required")


class PrivacyError(SecflError):
    """An error of the privacy mechanism, accountant or ledger."""


class BudgetExceeded(PrivacyError):  # noqa: N818  the design's name
    """The next release does not fit into what is left of the budget; nothing was spent.

    :param requested: epsilon (at the ledger's delta) after the requested event.
    :param remaining: epsilon that the budget still allows.
    """

    def __init__(self, requested: float, remaining: float, *, detail: str = "") -> None:
        self.requested = requested
        self.remaining = remaining
        text = f"requested epsilon {requested:.4g}, remaining {remaining:.4g}"
        super().__init__(f"{detail}: {text}" if detail else text)


class LedgerCorrupt(PrivacyError):  # noqa: N818  the design's name
    """The ledger is missing, truncated, edited or signed by another key. No training until a person decides."""


class LedgerRolledBack(LedgerCorrupt):
    """An older copy of the ledger stands in the place of a newer one."""


class ReportMismatch(PrivacyError):  # noqa: N818  reads as what it is
    """A report says something else than the ledgers and records that it was made from.

    :param what: the number, hash or signature, by its place in the report.
    """

    def __init__(self, what: str, found: object, expected: object) -> None:
        self.what = what
        super().__init__(f"{what}: {found}; the records say: {expected}")


class EncodingError(SecflError):
    """A tensor that cannot be encoded: not finite, out of range, wrong shape or dtype.

    :param tensor: name of the tensor (or ``"vector"`` for an unnamed one).
    """

    def __init__(self, tensor: str, problem: str) -> None:
        self.tensor = tensor
        super().__init__(f"tensor {tensor!r}: {problem}")


class ConfigError(SecflError):
    """A configuration value that cannot be used.

    :param key: dotted path of the key in the file.
    :param allowed: what is allowed there.
    """

    def __init__(self, key: str, problem: str, allowed: str = "") -> None:
        self.key = key
        self.allowed = allowed
        super().__init__(f"{key}: {problem}{f'; allowed: {allowed}' if allowed else ''}")


class MissingExtra(SecflError):  # noqa: N818  reads as what it is
    """A feature needs an optional dependency.

    :param extra: name of the extra that installs it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f'{feature} needs an optional dependency: pip install "secfl[{extra}]"')
