"""The server's end of `secfl run --engine flower`: rounds, checkpoints and report of a run, in a ServerApp."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from flwr.app import Context
from flwr.serverapp import Grid

from protocols.errors import ConfigError, FaultReason, PeerFault
from protocols.identity import Roster
from secfl.config import Config, load_config
from secfl.engines.flower.engine import FlowerEngine
from secfl.engines.flower.envelope import Letter
from secfl.engines.flower.study import HeadRequest, Spending, check_engine, configuration_digest
from secfl.events import jsonl_observer
from secfl.federation.countersigned import SERVER
from secfl.federation.keys import load_or_create_key
from secfl.federation.roster_file import ROSTER_NAME, read_roster
from secfl.privacy.countersigning import HeadKeeper
from secfl.privacy.ledger_copy import LedgerCopy

__all__ = ["PUBLIC_CONTEXT", "RUN_DIRECTORY", "serve_study"]

RUN_DIRECTORY = "run-directory"
"""Key of the run's configuration: absolute path of the run's directory, on the SuperLink's machine."""
PUBLIC_CONTEXT = "public-context.bin"
"""In the run's directory: the key holder's public context, with protocol ckks."""


class _Remote:
    """A party that answers over Flower."""

    def __init__(self, name: str) -> None:
        self.name = name


class RemoteHeads:
    """Countersigned heads of ledgers elsewhere; it stands where a simulation has `CountersignedHeads`."""

    def __init__(self, keeper: HeadKeeper, lineage: str) -> None:
        self.keeper = keeper
        self.told: dict[str, bytes] = {}
        """What goes to each silo with the next model."""
        self._lineage = lineage

    def remind(self, silos: Iterable[str]) -> None:
        """Before an attempt: what the server remembers of each ledger."""
        recalled = {silo: self.keeper.recall(silo, self._lineage) for silo in silos}
        self.told.clear()
        self.told.update({silo: head for silo, head in recalled.items() if head is not None})

    def countersign(self) -> None:
        """After an attempt: done as the answers came in."""


class RemoteParties:
    """The parties as the server knows them: names, keys, and copies of ledgers as they come in.

    It stands where a simulation has `secfl.federation.setup.Parties`.
    """

    def __init__(
        self, config: Config, roster: Roster, directory: Path, public_context: bytes, keeper: HeadKeeper
    ) -> None:
        self.roster = roster
        self.silos = {silo.name: _Remote(silo.name) for silo in config.silo}
        self.ledgers: dict[str, LedgerCopy] = {}
        self.signatures: dict[str, str] = {}
        self.public_context = public_context
        self.heads = RemoteHeads(keeper, config.ledger.lineage)
        # As `secfl report verify` looks for them: the ledgers of a run lie beside it, those of a life at the silos.
        self._copies = directory / ("ledgers" if config.ledger.kind == "per-run" else "copies")
        self._name = f"{config.ledger.lineage}.ledger"

    def heard(self, party: str, letter: Letter) -> None:
        """Take the ledger that came with an answer.

        :raises LedgerCorrupt: it is not that party's, or older than the copy at hand; the answer does not count.
        """
        if not letter.terms or party not in self.silos:
            return
        try:
            spending = msgspec.msgpack.decode(letter.terms, type=Spending)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise PeerFault(FaultReason.MALFORMED, f"{party!r} shows no ledger") from None
        if party in self.ledgers:
            self.ledgers[party].update(spending.ledger)
        else:
            path = self._copies / party / self._name
            self.ledgers[party] = LedgerCopy(path, self.roster.member(party).identity_key, spending.ledger)
        if spending.announced:
            self.heads.keeper.countersign(spending.announced)

    def sign_heads(self, engine: FlowerEngine, run_id: str, model_hash: str) -> None:
        """Ask every silo for its ledger as it stands now, and for its signature over the head."""
        request = Letter("ledger", msgspec.msgpack.encode(HeadRequest(run_id, model_hash)))
        for party, letter in engine.ask(request).items():
            self.heard(party, letter)
            if party in self.ledgers:
                self.signatures[party] = letter.trailer.decode("ascii", "replace")
        # They came in as silos answered; a report has them in the configuration's order.
        self.ledgers = {silo: self.ledgers[silo] for silo in self.silos if silo in self.ledgers}


def serve_study(grid: Grid, context: Context) -> None:
    """The whole server app: go on from the checkpoint if there is one, run the rounds, write model and report.

    :raises ConfigError: the run's directory does not hold what it should.
    """
    from secfl.federation import session
    from secfl.federation.checkpoint import DirectoryJournal
    from secfl.federation.reporting import build_report
    from secfl.federation.run import run_rounds, write_model
    from secfl.federation.setup import plan_run
    from secfl.report import write_report

    directory = _run_directory(context)
    config, text = load_config(directory / session.CONFIGURATION)
    check_engine(config)
    plan = plan_run(config, session.origin(directory))
    public = directory / PUBLIC_CONTEXT
    roster = read_roster(directory / ROSTER_NAME)
    base = (
        session.origin(directory) / config.ledger.directory
        if config.ledger.kind == "lifetime"
        else directory / "ledgers"
    )
    members = {str(member.id): member.identity_key for member in roster}
    keeper = HeadKeeper(base / SERVER / "heads", load_or_create_key(base / SERVER / "server.key"), members)
    context_of_keys = public.read_bytes() if public.exists() else b""
    parties = RemoteParties(config, roster, directory, context_of_keys, keeper)
    engine = FlowerEngine(
        grid,
        roster,
        deadline_seconds=config.aggregation.deadline_seconds,
        credentials=configuration_digest(text),
        heard=parties.heard,
    )
    engine.heads = parties.heads.told
    evaluate = session.evaluator(plan)
    with ExitStack() as resources:
        resources.enter_context(session.torch_threads(config.run.threads))
        events = resources.enter_context(jsonl_observer(directory / session.EVENTS))
        start = session.start_of(directory, plan, text, evaluate)
        known: Any = parties  # it has what a run and its report ask of parties
        result = run_rounds(plan, known, engine, start, DirectoryJournal(directory), evaluate=evaluate, events=events)
        model = write_model(directory, plan, result.state).read_bytes()
        parties.sign_heads(engine, result.run_id, hashlib.sha256(model).hexdigest())
        report = build_report(plan, known, engine, result, text, model, parties.signatures)
    write_report(report, directory)


def _run_directory(context: Context) -> Path:
    named = context.run_config.get(RUN_DIRECTORY)
    if not isinstance(named, str) or not Path(named).is_absolute() or not Path(named).is_dir():
        raise ConfigError(RUN_DIRECTORY, f"{named!r} is no folder", "the absolute path of a run's directory")
    return Path(named)
