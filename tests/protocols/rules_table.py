"""Write docs/reference/rules.md: ``python tests/protocols/rules_table.py``. A test compares it with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "rules.md"
RULE = re.compile(r"(?:SP|PT|SV|SA|SS|OS|OV)-\d+")

INTRODUCTION = """# Validation rules

Each rule of the sessions has a number, which a refusal carries in `rule`, a line of code, and tests that break exactly
it on real bytes: they assert the class of the refusal, its reason, its culprit, that the session is as it was, and
that it ends with the exact sum afterwards. What the codec itself refuses (wrong types, lengths, trailing bytes,
encodings that are not canonical) has no number; tests/protocols/test_wire_strictness.py covers it.

This page is written by `python tests/protocols/rules_table.py`; a test compares it with code and tests.
"""

SECTIONS = {
    "SP": (
        "Floors of a party's own policy",
        {
            1: "the protocol is one that this party takes part in",
            2: "the suite is one that this party accepts",
            3: "the roster is the one that this party has pinned",
            4: "every client of the cohort is in the roster and not revoked",
            5: "the cohort is not smaller than this party's floor",
            6: "the collusion bound is not below this party's",
            7: "the minimum of contributors is from the larger of this party's floor and c + 2 to the cohort",
            8: "the modulus has at least 8 bits and holds the signed sum of all vectors in this party's range",
            9: "the vector is not longer than this party's bound on memory",
        },
    ),
    "PT": (
        "Every party session",
        {
            1: "the cohort is strictly increasing: in order, nobody twice",
            2: "a vector has no more chunks than can be numbered",
            3: "the message is a request of this protocol",
            4: "the first request carries the parameters",
            5: "protocol and suite of the message are those of the parameters",
            6: "the session id is the hash of the parameters",
            7: "session id and suite are those of this session",
            8: "the request belongs to the phase that comes next, or repeats the last one byte for byte",
            9: "a request without chunks has none",
            10: "one attempt at a round gives its vector to one session only (durable)",
            11: "a phase is answered once: a second, different answer is refused (durable, outside saved sessions)",
        },
    ),
    "SV": (
        "Every server session",
        {
            1: "the reply is of the open phase, and the session is not over",
            2: "session id and suite are those of this session",
            3: "the sender is asked in this phase",
            4: "the sender has not answered in this phase",
            5: "the trailer is the sender's signature over session, phase, header and chunks",
            6: "no more chunks than agreed on",
            7: "each chunk has its length, its place, and zeros for padding",
            8: "no chunk is missing when the reply is committed",
            9: "a party has one upload open; a newer one takes its place",
        },
    ),
    "SA": (
        "SecAgg, client",
        {
            1: "the degree is that of the complete graph",
            2: "2 t > n + c: two sets of t clients share an honest one",
            3: "the threshold is not above the cohort",
            4: "the suite is one that this code knows",
            5: "advertisements: in cohort order, nobody twice, nobody unknown",
            6: "own keys are among the advertisements, unchanged",
            7: "at least max(t, minimum of contributors) advertisements",
            8: "no advertised key equals another",
            9: "each advertisement is signed by its client, for this session",
            10: "T0 is the root of these advertisements",
            11: "no key is of low order or not canonical",
            12: "senders of shares: in cohort order, nobody twice, nobody unknown",
            13: "every sender advertised keys",
            14: "own shares do not come back",
            15: "at least max(t, minimum of contributors) clients shared, oneself included",
            16: "the ciphertext was sealed by this sender, for this receiver, under this T0",
            17: "the shares have their length and are in the field",
            18: "contributors: in cohort order, nobody twice, nobody unknown",
            19: "oneself is among the contributors",
            20: "every contributor shared with this client",
            21: "at least max(t, minimum of contributors) contributors",
            22: "signers: in cohort order, nobody twice, nobody unknown",
            23: "at least q signatures, 2 q > n + c",
            24: "each signature is its signer's, over T0 and the very set that is shown",
            25: "the set is the one that this client signed; else two views of one session are proven",
            26: "this client is in the cohort",
        },
    ),
    "SS": (
        "SecAgg, server",
        {
            1: "no advertised key equals another",
            2: "no advertised key is of low order or not canonical",
            3: "sealed shares are for exactly the holders, in their order",
            4: "the set that was signed is the set that was shown",
            5: "one share for each client that shared",
            6: "the shares have their length and are in the field",
            7: "a holder's share that fits no secret is left out if enough others are there (recorded)",
            8: "every rebuilt secret fits its commitment or public key (else the session is over)",
            9: "sealed shares have their length",
        },
    ),
    "OS": (
        "One-shot, client and committee",
        {
            1: "the suite is one that this code knows",
            2: "the committee is the pinned one",
            3: "more shares are needed to open than secrets are packed: t > l",
            4: "2 t >= m + c + 2 l - 1: two sets of t members share an honest one",
            5: "t <= m - c: silent colluders cannot block the opening",
            6: "the lattice record is known, and the sums fit its slots",
            7: "a member's shares fit one request",
            8: "this client is in the cohort",
            9: "this member is on the committee",
            10: "the proposed set: in cohort order, nobody twice, nobody unknown",
            11: "at least the minimum of contributors is proposed",
            12: "each contribution is signed by its client, for this session",
            13: "each share's Merkle path fits its contribution",
            14: "the opened set: in cohort order, nobody twice, nobody unknown",
            15: "at least the minimum of contributors is opened",
            16: "the opened set was proposed and its shares opened",
        },
    ),
    "OV": (
        "One-shot, server",
        {
            1: "the sealed shares have the root that was signed",
            2: "a complaint is about proposed clients, in order, nobody twice",
            3: "a member without complaints is asked to open; a complaint is recorded",
            4: "the summed share is over the set that was shown",
            5: "the summed share has its length and is in the field",
            6: "the shares at hand open one key sum (else the session is over)",
            7: "a wrong summed share is left out if enough others are there (recorded)",
            8: "the residuals of every block are as small as the errors' sum (else the session is over)",
            9: "the key sum is one that these contributors can have",
        },
    ),
}


def places() -> dict[str, list[tuple[str, int]]]:
    """Where each rule's number stands in code (not in comments or docstrings)."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path in sorted((ROOT / "protocols").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and RULE.fullmatch(node.value):
                found.setdefault(node.value, []).append((str(path.relative_to(ROOT)), node.lineno))
    return {rule: sorted(lines) for rule, lines in found.items()}


def tests() -> dict[str, list[str]]:
    """Tests by the rule that their name opens with: ``test_sa_5_...`` proves SA-5."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (
                name := re.match(r"test_(sp|pt|sv|sa|ss|os|ov)_(\d+)_", node.name)
            ):
                rule = f"{name[1].upper()}-{name[2]}"
                found.setdefault(rule, []).append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def rows() -> Iterator[str]:
    """The page, line by line."""
    yield from INTRODUCTION.splitlines()
    code, proofs = places(), tests()
    for prefix, (title, meanings) in SECTIONS.items():
        yield from ("", f"## {title}", "", "| rule | a message or proposal is refused unless | code | tests |")
        yield "|---|---|---|---|"
        for number, meaning in meanings.items():
            rule = f"{prefix}-{number}"
            lines = ", ".join(f"[{path}](../../{path}#L{line})" for path, line in code.get(rule, []))
            names = "<br>".join(f"`{name.rpartition('::')[2]}`" for name in proofs.get(rule, []))
            yield f"| {rule} | {meaning} | {lines} | {names} |"


def page() -> str:
    """The whole page."""
    return "\n".join(rows()) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
