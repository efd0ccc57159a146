"""`secagg_mod`: what a Flower client adds so that its update leaves in a secure sum or not at all."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from protocols.errors import EncodingError, FaultReason, PolicyRefused, PrivacyError, ProtocolError, ServerFault
from protocols.session import ClientPolicy
from protocols.shape import Entropy, Need, Reply
from protocols.wire import peek_kind
from secfl.encoding import EncodingScheme, TensorLayout
from secfl.engines.flower.envelope import Letter, has_letter, own_records, read_letter, write_letter
from secfl.engines.flower.home import NodeHome
from secfl.engines.flower.noise import NoisedSilo, NoisedUpdate, check_mechanism, open_node_ledger
from secfl.engines.flower.roll_call import answer_call
from secfl.engines.flower.terms import Terms, bound_parts, model_of
from secfl.engines.workers import local_workers
from secfl.events import jsonl_observer
from secfl.federation.silo import Contribution, LocalTraining, Scheme, Silo, Vector
from secfl.privacy.events import AnyPrivacyEvent
from secfl.privacy.mechanism import DistributedMechanism
from secfl.registry import offered

__all__ = ["OUTSIDE", "attend", "secagg_mod"]

SchemeT = TypeVar("SchemeT", EncodingScheme, DistributedMechanism)

OUTSIDE = (
    "a training message outside any secure session: an unprotected update never leaves this node "
    "(is the strategy on the server wrapped in SecureAggregation?)"
)


def secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A Flower mod: ``@app.train(mods=[secagg_mod])``. It must be the first, so that nothing is around it.

    It answers the requests of a `SecureAggregation` and calls the app's function when its update is needed. **It fails
    closed**: a training message that is not part of a session is an error, and the app is not called; nor is there any
    reply with arrays to a message of another type. Keys, roster and floors are the node's own
    (`secfl.engines.flower.home`).

    :raises SecflError: the node refuses; the server sees the error's kind and text, which carry no private value.
    """
    if message.metadata.message_type.partition(".")[0] != "train":
        return _without_arrays(call_next(message, context))
    if not has_letter(message):
        raise ServerFault(FaultReason.MALFORMED, OUTSIDE)
    letter = read_letter(message)
    with NodeHome.open(NodeHome.locate(context.node_config)) as home:
        if letter.kind == "call":
            answer = answer_call(letter, home.identity, home.roster, context.run_id, context.node_id)
            return Message(write_letter(answer), reply_to=message)
        return _answer(home, letter, message, context, call_next)


def _answer(
    home: NodeHome, letter: Letter, message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    _require_request(letter)
    if not letter.terms:
        return _message(attend(home, letter), message)
    terms, privacy = Terms.from_bytes(letter.terms), home.floors.privacy
    _check_terms(terms, home)
    app = _AppTraining(message, context, call_next, terms, str(home.identity.id))
    with ExitStack() as resources:
        options: dict[str, Any] = {
            "notes": resources.enter_context(jsonl_observer(home.path / "local.jsonl", mode=0o600)),
            "weight": app.weight,
        }
        if privacy is None:
            silo = _silo(home, letter, Silo, app.training(), _scheme(terms, EncodingScheme), **options)
        else:
            used = _scheme(terms, DistributedMechanism)
            check_mechanism(used, privacy)
            event = used.plan.event(1, sampling_rate=1.0)
            ledger = resources.enter_context(open_node_ledger(home.path, home.identity, privacy, event))
            silo = _silo(home, letter, NoisedSilo, app.noised(event), used, ledger=ledger, **options)
        return _message(silo.answer(letter.header, letter.chunks, app.state.astype("<f4").tobytes()), message)


def _check_terms(terms: Terms, home: NodeHome) -> None:
    """Hold what the server proposes against the node's own settings.

    :raises PolicyRefused: naming what differs.
    """
    floors = home.floors
    if terms.weights == "public" and dict(terms.public) != floors.weights:
        raise PolicyRefused("weights", dict(terms.public), f"{floors.weights}, as this node has them")
    if terms.noise != (floors.privacy is not None):
        required = (
            "noise, as [privacy] in its node.toml says" if floors.privacy else "none without a budget in node.toml"
        )
        raise PolicyRefused("noise", "some" if terms.noise else "none", required)
    if terms.noise and terms.weights != "uniform":
        raise PolicyRefused("weights", terms.weights, "uniform, under noise")


def _scheme(terms: Terms, kind: type[SchemeT]) -> SchemeT:
    try:
        scheme = kind.from_bytes(terms.encoding)
    except (EncodingError, PrivacyError) as error:
        raise ServerFault(FaultReason.MALFORMED, str(error)) from None
    expected = {"examples": "private", "public": "public", "uniform": "none"}[terms.weights]
    if isinstance(scheme, EncodingScheme) and scheme.weighting != expected:
        raise PolicyRefused("weighting", scheme.weighting, f"{expected}, with weights {terms.weights!r}")
    return scheme


def _message(reply: Reply, message: Message) -> Message:
    content = write_letter(Letter("answer", reply.header, reply.chunks, reply.trailer))
    return Message(content, reply_to=message)


def attend(home: NodeHome, letter: Letter, policy: ClientPolicy | None = None) -> Reply:
    """Answer a request for anything but the vector.

    :param policy: floors; the node's own by default.
    :raises PeerFault: a request that must not be, among them one for the vector.
    """
    _require_request(letter)
    silo = _silo(home, letter, _WithoutModel, _NO_TRAINING, _NO_SCHEME, policy=policy)
    return silo.answer(letter.header, letter.chunks, b"")


def _require_request(letter: Letter) -> None:
    if letter.kind != "request":
        raise ServerFault(FaultReason.MALFORMED, f"a letter of kind {letter.kind!r}")


def _silo(
    home: NodeHome,
    letter: Letter,
    kind: type[Silo],
    training: Contribution,
    scheme: Scheme,
    *,
    policy: ClientPolicy | None = None,
    **options: Any,
) -> Silo:
    protocol, _ = peek_kind(letter.header)
    everybody = [str(member.id) for member in home.roster]
    return kind(
        home.identity,
        home.roster,
        policy or home.policy(protocol),
        store=home.store,
        training=training,
        scheme=scheme,
        protocol=protocol,
        roles=offered(protocol).roles(home.identity, home.roster, everybody),
        state=home.sessions,
        workers=local_workers(0),
        **options,
    )


class _AppTraining:
    """The app's training function, as a silo's."""

    def __init__(
        self, message: Message, context: Context, call_next: ClientAppCallable, terms: Terms, party: str
    ) -> None:
        self._message, self._context, self._call_next = message, context, call_next
        self._terms, self._party = terms, party
        self._examples = 0
        self._name, arrays = model_of(message.content)
        tensors = {name: array.numpy() for name, array in arrays.items()}
        self._layout = TensorLayout.of(tensors)
        self.state: Vector = np.asarray(self._layout.flatten(tensors), np.float32)
        self._bound = bound_parts(message.content, terms, self._layout)

    def training(self) -> LocalTraining:
        """As a silo takes it."""
        return LocalTraining(self._update, None, self._layout, self._layout, self._bound)

    def noised(self, event: AnyPrivacyEvent) -> NoisedUpdate:
        """The same with noise."""
        return NoisedUpdate(self._update, event, self._layout, self._layout, self._bound)

    def weight(self) -> int:
        """Of the update, known once the app has trained."""
        if self._terms.weights == "examples":
            return self._examples
        return dict(self._terms.public).get(self._party, 1)

    def _update(self, state: Vector, _entropy: Entropy) -> Vector:
        """Call the app; its arrays less the global model."""
        content = self._message.content
        rest = {name: record for name, record in content.items() if name not in own_records()}
        self._message.content = RecordDict(rest)
        try:
            reply = self._call_next(self._message, self._context)
        except Exception as error:
            # What the app says may hold private records, and Flower would send it to the server.
            raise ProtocolError(
                f"the app's training raised {type(error).__name__}; its text stays at the node"
            ) from error
        if not reply.has_content():
            raise ProtocolError("the app's training replied with an error; its text stays at the node")
        trained = self._trained(reply.content)
        if self._terms.weights == "examples":
            self._examples = self._number_of_examples(reply.content)
        return trained - state

    def _trained(self, content: RecordDict) -> Vector:
        _, arrays = model_of(content)
        tensors = {name: array.numpy() for name, array in arrays.items()}
        for entry in self._layout.entries:
            # Flower's adaptive strategies turn the global model to float64, which an app loads as float32.
            found = tensors.get(entry.name)
            if found is not None and found.dtype.kind == "f":
                tensors[entry.name] = found.astype(entry.dtype, copy=False)
        if self._terms.noise and not all(np.isfinite(found).all() for found in tensors.values()):
            return np.full(self._layout.size, np.nan, np.float32)  # it counts as zero: who takes part tells nothing
        return np.asarray(self._layout.flatten(tensors), np.float32)

    def _number_of_examples(self, content: RecordDict) -> int:
        key, found = self._terms.weighted_by, []
        for record in content.metric_records.values():
            found += [record[key]] if key in record else []
        if len(found) != 1:
            raise ProtocolError(f"the app's reply has {len(found)} metrics {key!r}; expected: one")
        number = found[0]
        if isinstance(number, list) or number != int(number):
            raise ProtocolError(f"the app's metric {key!r} is not a whole number")
        return int(number)


class _WithoutModel(Silo):
    """A silo that is asked for anything but its vector."""

    def _check_agreed(self, need: Need, _context: bytes) -> None:
        detail = "the vector is asked for, and no model and terms came with the request"
        raise ServerFault(FaultReason.MALFORMED, detail, phase=need.phase)


def _never(_state: Vector, _entropy: Entropy) -> Vector:
    raise ProtocolError("there is no model to train")


_NO_LAYOUT = TensorLayout.of({"none": np.zeros(1, np.float32)})
_NO_TRAINING = LocalTraining(_never, None, _NO_LAYOUT, _NO_LAYOUT)
_NO_SCHEME = EncodingScheme.choose(1.0, 8, maximum_contributors=2, layout_digest=_NO_LAYOUT.digest)


def _without_arrays(reply: Message) -> Message:
    """A reply to a message that is no training: metrics may pass."""
    if reply.has_content() and any(isinstance(record, ArrayRecord) for record in reply.content.values()):
        raise ProtocolError("a reply with arrays to a message that is no training; only a secure session takes arrays")
    return reply
