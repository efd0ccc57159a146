"""What a report is made from: by a run as it ends, or read again from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secfl.config import Config
from secfl.encoding import TensorLayout
from secfl.encoding.layout import TensorEntry
from secfl.federation.setup import encoding_scheme
from secfl.federation.silo import Scheme
from secfl.privacy.claims import Charged
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.ledger_summary import summarise
from secfl.report.accounts import (
    Account,
    charged_events,
    present_event,
)
from secfl.report.model import (
    Audit,
    Baseline,
    RoundRow,
)

__all__ = ["RunRecords"]


@dataclass(frozen=True)
class RunRecords:
    """Everything that a report is made from.

    :param configuration: text of the configuration.
    :param keys: identity key of each silo, hex, as the roster pins it.
    :param accounts: ledger of each silo; empty without privacy.
    :param signatures: of the silos over their ledgers' heads, hex.
    :param model_hash: SHA-256 of the final model's file, hex.
    :param update_size: coordinates of an update.
    """

    config: Config
    configuration: str
    run_id: str
    started: str
    finished: str
    status: str
    reason: str
    engine: str
    simulation: bool
    rounds: tuple[RoundRow, ...]
    metric: float | None
    model_hash: str
    update_size: int
    keys: Mapping[str, str]
    roster_hash: str
    accounts: Mapping[str, Account] = field(repr=False)
    signatures: Mapping[str, str]
    versions: Mapping[str, str]
    audits: tuple[Audit, ...] = ()
    baselines: tuple[Baseline, ...] = ()

    @property
    def layout(self) -> TensorLayout:
        """Of so many coordinates."""
        return TensorLayout((TensorEntry("update", "float32", (self.update_size,)),))

    @property
    def scheme(self) -> Scheme:
        """The encoding that follows from the configuration."""
        return encoding_scheme(self.config, self.layout)

    @property
    def charged(self) -> tuple[Charged, ...]:
        """What each ledger counts as spent."""
        return tuple(
            Charged.of(summarise(account.state, account.head), self._plan(account), run=self.run_id)
            for account in self.accounts.values()
        )

    def _plan(self, account: Account) -> tuple[AnyPrivacyEvent, ...] | None:
        """The rounds of this run, which were fixed before its first release."""
        event = present_event(account.state, self.run_id)
        return None if event is None else (event,) * self.config.budgeted_rounds

    @property
    def events(self) -> tuple[AnyPrivacyEvent, ...]:
        """What the ledgers have been charged, in one list; for their parameters, not to be added up."""
        return tuple(event for account in self.accounts.values() for event in charged_events(account.state))
