"""Blocks of the page of states: diagrams from the transition tables of the parties, and from the servers' phases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from specification import DOCS

from protocols import ckks, oneshot, secagg
from protocols.ckks import CkksClient, CkksKeyHolder
from protocols.identity import Role
from protocols.oneshot import OneShotClient, OneShotMember
from protocols.secagg import SecAggClient

PAGE = DOCS / "reference" / "states.md"
PARTIES: dict[str, Any] = {
    "secagg, client": SecAggClient,
    "oneshot, client": OneShotClient,
    "oneshot, committee": OneShotMember,
    "ckks, client": CkksClient,
    "ckks, key holder": CkksKeyHolder,
}
SERVERS: dict[str, Any] = {"secagg": secagg, "oneshot": oneshot, "ckks": ckks}
ARROW = "    |"
ASKED = {Role.CLIENT: "client", Role.COMMITTEE: "member of the committee", Role.KEY_HOLDER: "key holder"}


def states(party: Any) -> list[str]:
    """Names of a party's states in order: those that a request is answered in, then the one that is left."""
    asked = [step.state.__name__ for step in party.TRANSITIONS]
    known = [kind.__name__ for kind in get_args(party.STATES)]
    (last,) = (name for name in known if name not in asked)
    if sorted([*asked, last]) != sorted(known):
        raise SystemExit(f"{party.__name__}: states {known}, in the table {asked}")
    return [*asked, last]


def diagram(party: Any) -> str:
    """From state to state, by the request that leads there."""
    names, lines = states(party), ["```text"]
    for name, step in zip(names, party.TRANSITIONS, strict=False):
        notes = [step.phase, f"{step.request.KIND} in"]
        notes += ["chunks in"] if step.chunks is not None else []
        notes += ["vector"] if step.vector else []
        lines += [name, f"{ARROW}  {', '.join(notes)}; its reply out", "    v"]
    return "\n".join([*lines, names[-1], "```"])


def pairs(party: Any) -> str:
    """Every state with every request: what is answered, repeated, refused."""
    names = states(party)
    rows = [
        "| in state | " + " | ".join(f"`{step.request.KIND}`" for step in party.TRANSITIONS) + " |",
        "|---" * (1 + len(party.TRANSITIONS)) + "|",
    ]
    for position, name in enumerate(names):
        cells = []
        for number, _ in enumerate(party.TRANSITIONS):
            if number == position:
                cells.append(f"answered, then `{names[position + 1]}`")
            elif number == position - 1:
                cells.append("the same again: the same bytes; another: refused")
            else:
                cells.append("PT-4" if position == 0 else "PT-8")
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def server(package: Any) -> str:
    """The phases of a server's session."""
    lines = ["```text"]
    for phase, role in package.PHASE_ROLES.items():
        if phase == "Blame":
            lines[-1:] = ["    v", "result, or where the residual check fails", "    |", "    v"]
        lines += [phase, f"{ARROW}  requests to every {ASKED[role]} expected; replies, each once; close_phase", "    v"]
    return "\n".join([*lines, "result", "```"])


BLOCKS: dict[str, Callable[[], str]] = {
    **{f"states of {name}": partial(diagram, party) for name, party in PARTIES.items()},
    **{f"pairs of {name}": partial(pairs, party) for name, party in PARTIES.items()},
    **{f"phases of {name}": partial(server, package) for name, package in SERVERS.items()},
}
