"""A silo's end of `secfl run --engine flower`: the app that trains as a configuration says, which the node has itself.

The node's own configuration names the file (``secfl-study``); model file and records lie beside it, as for a run in one
process. Nothing of it comes from the server, which only shows that it has the same file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from flwr.app import Context, Message

from protocols.errors import ConfigError, FaultReason, PolicyRefused, ServerFault
from protocols.shape import Reply
from secfl.config import Config, SiloSettings, load_config
from secfl.engines.flower.client import OUTSIDE, attend
from secfl.engines.flower.engine import CONTEXT, HEADS
from secfl.engines.flower.envelope import Letter, has_letter, read_letter, write_letter
from secfl.engines.flower.home import NodeHome
from secfl.engines.flower.roll_call import answer_call
from secfl.engines.workers import local_workers
from secfl.events import jsonl_observer
from secfl.federation.setup import floors_of, open_ledger, plan_run
from secfl.federation.silo import Silo
from secfl.federation.work import contribution, own_scheme
from secfl.privacy.countersigning import HeadWitness
from secfl.privacy.ledger_replay import Replay
from secfl.report.signatures import sign_head

__all__ = ["STUDY", "HeadRequest", "Spending", "Study", "answer_study", "check_engine", "configuration_digest"]

STUDY = "secfl-study"
"""Key of the node's own configuration that holds the path of the configuration file."""


class Spending(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a silo shows of its ledger: public numbers, signed line by line.

    :param ledger: the file.
    :param announced: its head, for the server to countersign; empty at the end of a run.
    """

    ledger: bytes
    announced: bytes = b""


class HeadRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a silo signs at the end of a run, beside the head of its ledger.

    :param model_hash: SHA-256 of the final model's file, hex.
    """

    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    model_hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


def check_engine(config: Config) -> None:
    """Refuse what only the embedded engine does yet.

    :raises ConfigError: naming the key.
    """
    if config.simulation.incidents:
        raise ConfigError("simulation.incidents", "given, but only the embedded engine simulates", "no such tables")
    if config.rounds.buffered:
        raise ConfigError("rounds.mode", "buffered, on Flower", '"synchronous", or the embedded engine')
    if config.evaluation.kind == "secure":
        raise ConfigError("evaluation.kind", "secure, on Flower", '"benchmark" or "none", or the embedded engine')


def configuration_digest(text: str) -> bytes:
    """What server and silos compare."""
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True)
class Study:
    """The configuration that a node agreed to."""

    path: Path
    config: Config
    text: str = field(repr=False)

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> Study:
        """The study of the node that this process belongs to.

        :raises ConfigError: the node's configuration names none, or the file cannot be used.
        """
        named = node_config.get(STUDY)
        if not isinstance(named, str) or not Path(named).is_absolute():
            allowed = f"""flower-supernode --node-config '{STUDY}="/path/to/config.toml"'"""
            raise ConfigError(STUDY, "this node has no configuration of a study", allowed)
        return cls(Path(named), *load_config(named))

    def silo(self, name: str) -> SiloSettings | None:
        """A silo's settings; None for a party that trains nothing."""
        return next((silo for silo in self.config.silo if silo.name == name), None)

    def ledger_path(self, home: Path, run_id: str) -> Path:
        """Where the ledger of a silo lies: the lifetime one, or the one of a run."""
        folder = home if self.config.ledger.kind == "lifetime" else home / "runs" / run_id
        return folder / f"{self.config.ledger.lineage}.ledger"

    def ledger_bytes(self, home: Path, run_id: str) -> bytes:
        """The ledger as it stands: public numbers, signed line by line; empty where there is none."""
        path = self.ledger_path(home, run_id)
        return path.read_bytes() if self.config.privacy is not None and path.exists() else b""


def answer_study(message: Message, context: Context) -> Message:
    """Answer a training message; the whole client app.

    :raises SecflError: the node refuses; the server sees the error's kind and text.
    """
    if not has_letter(message):
        raise ServerFault(FaultReason.MALFORMED, OUTSIDE)
    letter, study = read_letter(message), Study.of(context.node_config)
    with NodeHome.open(NodeHome.locate(context.node_config)) as home:
        if letter.kind == "call":
            if letter.terms != configuration_digest(study.text):
                raise PolicyRefused(
                    "configuration", letter.terms.hex()[:16], f"{configuration_digest(study.text).hex()[:16]}, its own"
                )
            answer = answer_call(letter, home.identity, home.roster, context.run_id, context.node_id)
        elif letter.kind == "ledger":
            answer = _signed_head(study, home, letter)
        else:
            answer = _answer(home, study, letter, message)
    return Message(write_letter(answer), reply_to=message)


def _answer(home: NodeHome, study: Study, letter: Letter, message: Message) -> Letter:
    record = message.content.array_records.get(CONTEXT)
    if record is None:
        reply = attend(home, letter, floors_of(study.config))
        return Letter("answer", reply.header, reply.chunks, reply.trailer)
    model = np.ascontiguousarray(record["model"].numpy(), np.dtype("<f4")).tobytes()
    heads = message.content.config_records.get(HEADS)
    told = b"" if heads is None else heads.get(str(home.identity.id), b"")
    if not isinstance(told, bytes):
        raise ServerFault(FaultReason.MALFORMED, "a ledger's head that is no bytes")
    reply, spent = _contribute(home, study, letter, model, told)
    return Letter("answer", reply.header, reply.chunks, reply.trailer, spent)


def _run_id(terms: bytes) -> str:
    """Name of the run, under which a silo keeps the ledger of that run alone, if it keeps such ledgers."""
    if not re.fullmatch(rb"[a-z0-9][A-Za-z0-9._-]{0,127}", terms):
        raise ServerFault(FaultReason.MALFORMED, "no name of a run with the request")
    return terms.decode()


def _contribute(home: NodeHome, study: Study, letter: Letter, model: bytes, told: bytes) -> tuple[Reply, bytes]:
    """The answer, and what it has cost.

    :param told: the newest head of this silo's ledger that the server has countersigned; empty for none.
    """
    from secfl.federation.session import torch_threads

    settings = study.silo(str(home.identity.id))
    if settings is None:
        raise PolicyRefused("cohort", str(home.identity.id), "a silo of the configuration")
    plan = plan_run(study.config, study.path.parent)
    policy = floors_of(study.config, plan.entry_bound)
    with ExitStack() as resources:
        resources.enter_context(torch_threads(study.config.run.threads))
        ledger, path = None, study.ledger_path(home.path, _run_id(letter.terms))
        witness = HeadWitness(path, settings.name, study.config.ledger.lineage)
        if plan.private:
            if told:
                witness.learn(told)
            ledger = resources.enter_context(open_ledger(plan, settings, home.identity, path, witness.expected))
            witness.keep()
        silo = Silo(
            home.identity,
            home.roster,
            policy,
            store=home.store,
            training=contribution(plan, settings),
            scheme=own_scheme(plan, policy),
            weight=plan.weights[settings.name],
            protocol=study.config.aggregation.protocol,
            roles=study.config.cast.roles(settings.name),
            ledger=ledger,
            randomness=plan.randomness,
            notes=resources.enter_context(jsonl_observer(home.path / "local.jsonl", mode=0o600)),
            state=home.sessions,
            workers=local_workers(study.config.aggregation.threads),
        )
        reply = silo.answer(letter.header, letter.chunks, model)
        if ledger is None:
            return reply, b""
        announced = witness.announce(ledger, home.identity.signing_key)
        return reply, msgspec.msgpack.encode(Spending(path.read_bytes(), announced))


def _signed_head(study: Study, home: NodeHome, letter: Letter) -> Letter:
    """The ledger, and a signature over its head, the run and the final model."""
    try:
        request = msgspec.msgpack.decode(letter.header, type=HeadRequest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ServerFault(FaultReason.MALFORMED, "no request for a ledger's head") from None
    raw = study.ledger_bytes(home.path, _run_id(request.run_id.encode()))
    if not raw:
        return Letter("answer", b"")
    replay = Replay(study.config.ledger.lineage, home.identity.signing_key.public)
    replay.read(raw)
    signature = sign_head(
        home.identity.signing_key,
        run_id=request.run_id,
        model_hash=request.model_hash,
        silo=str(home.identity.id),
        lineage=replay.state.genesis.lineage,
        head=replay.head,
    )
    return Letter("answer", b"", trailer=signature.encode(), terms=msgspec.msgpack.encode(Spending(raw)))
