"""Write docs/reference/rules.md: ``python tests/protocols/rules_table.py``. A test compares it with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "rules.md"
RULE = re.compile(r"(?:SP|PT|OG|SV|SA|SS|OS|OV|KS|KV)-\d+")

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
            10: "every client of the cohort has the keys that the suite's signatures need",
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
            12: "each chunk of a request has its length and its place, and there are as many as its header says",
            13: "the chunks of a request have the digest in its header",
        },
    ),
    "OG": (
        "An organisation with several roles",
        {
            1: "the message is a request of this protocol",
            2: "the organisation is asked in a role that it has",
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
            10: "no more than 256 uploads are under way; the oldest makes room for a newer one",
        },
    ),
    "SA": (
        "SecAgg, client",
        {
            1: "the degree is that of the complete graph",
            2: "2 t > n + c on the complete graph: two sets of t clients share an honest one",
            3: "the threshold is not above the cohort",
            4: "the suite is one that this code knows",
            5: "advertisements: in cohort order, nobody twice, nobody unknown",
            6: "own keys are among the advertisements, unchanged",
            7: "max(t, minimum of contributors) advertisements at least; of t neighbours on the Harary graph",
            8: "no advertised key equals another",
            9: "each advertisement is signed by its client, for this session",
            10: "T0 is the root of these advertisements, each at its client's place",
            11: "no key is of low order or not canonical",
            12: "senders of shares: in cohort order, nobody twice, nobody unknown",
            13: "every sender advertised keys",
            14: "own shares do not come back",
            15: "max(t, minimum of contributors) clients, oneself included, shared; t neighbours on a Harary graph",
            16: "the ciphertext was sealed by this sender, for this receiver, under this T0",
            17: "the shares have their length and are in the field",
            18: "contributors: in cohort order, nobody twice, nobody unknown",
            19: "oneself is among the contributors",
            20: "every contributor that is a neighbour shared with this client",
            21: "at least max(t, minimum of contributors) contributors",
            22: "signers: in cohort order, nobody twice, nobody unknown",
            23: "at least q signatures, 2 q > n + c",
            24: "each signature is its signer's, over T0 and the very set that is shown",
            25: "the set is the one that this client signed; else two views of one session are proven",
            26: "this client is in the cohort",
            27: "a Harary graph has at least 100 clients",
            28: "the claim is one that this party accepts",
            29: "the adversary rate is not below this party's",
            30: "the collusion bound is what the adversary rate stands for",
            31: "the degree is enough for rates and claim",
            32: "the threshold is right for degree, rates and claim",
            33: "no more clients may be missing among the contributors than the dropout rate stands for",
            34: "only neighbours' advertisements, and one's own",
            35: "the path has the hashes that lead from these advertisements to T0, no more and no fewer",
            36: "at least t holders of this client's shares are among the contributors",
        },
    ),
    "SS": (
        "SecAgg, server",
        {
            1: "no advertised key equals another",
            2: "no advertised key is of low order or not canonical",
            3: "sealed shares are for exactly the holders, in their order",
            4: "the set that was signed is the set that was shown",
            5: "one share for each neighbour that shared (on the complete graph: each client)",
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
            4: "2 t >= m + k + 2 l - 1: two sets of t members share an honest one",
            5: "t <= m - k: silent colluders cannot block the opening",
            6: "the lattice record is known, and the sums fit its slots",
            7: "no more groups of contributions than clients, none larger than a full one",
            8: "this client is in the cohort",
            9: "this member is on the committee",
            10: "the proposed set: nobody twice, nobody unknown",
            11: "at least the minimum of contributors is proposed",
            12: "each contribution is signed by its client, for this session",
            13: "each share's Merkle path fits its contribution",
            14: "the opened set: in cohort order, nobody twice, nobody unknown",
            15: "at least the minimum of contributors is opened",
            16: "the opened set was proposed and its shares opened",
            17: "every member has the keys that the suite seals under and signs with",
            18: "the models of the window are distinct, the context's not among them",
            19: "the quota is not below the minimum of contributors nor above the cohort",
            20: "each proposed contribution starts from a model of the window",
            21: "contributions relayed again are those left out (for blame: those opened), as checked, each once",
            22: "blame is for the set that this member opened",
            23: "k, the members in league, is not below this party's bound: c, unless its policy allows less",
        },
    ),
    "OV": (
        "One-shot, server",
        {
            1: "the sealed shares have the root that was signed",
            2: "a complaint is about proposed clients, in order, nobody twice",
            3: "as few parties as settle the complaints are left out; each complaint is recorded",
            4: "the summed share is over the set that was shown",
            5: "the summed share has its length and is in the field",
            6: "the shares at hand open one key sum (else blame)",
            7: "a wrong summed share is left out if enough others are there (recorded)",
            8: "the residuals of every block are as small as the errors' sum (else blame)",
            9: "the key sum is one that these contributors can have (else blame)",
            10: "the vector starts from a model of the window",
            11: "combinations for blame are over the set that was opened",
            12: "the combinations have their number and are in the field",
            13: "a member's combinations add up to those of the share of the sum that it signed (else proven)",
            14: "combinations of a client's shares lie on polynomials (else client and member are recorded)",
        },
    ),
    "KS": (
        "CKKS, client and key holder",
        {
            1: "the suite is one that this code knows",
            2: "the threshold is 1: one key holder decrypts",
            3: "the CKKS record is known",
            4: "the public context is the one that the named key holder, in good standing, has pinned in the roster",
            5: "the key version is that of the context",
            6: "the encoding does not wrap: 1 <= bound < 2^(b - 1)",
            7: "sums over the cohort are exact: proven error below 1/2, within the modulus",
            8: "the context is of the record, with the public key and no other",
            9: "this client is in the cohort",
            10: "this party is the key holder that is named",
            11: "contributors: in cohort order, nobody twice, nobody unknown",
            12: "at least the minimum of contributors",
            13: "each contribution is signed by its client, for this session",
            14: "one aggregate a session is decrypted, whatever came of it (durable)",
            15: "the aggregate's blocks are ciphertexts of the session's parameters",
            16: "every slot is within the proven error of an integer in the range of the sum; unused slots are zero",
            17: "the key holder has the keys that the suite's signatures need",
        },
    ),
    "KV": (
        "CKKS, server",
        {
            1: "a block has its length, zeros for padding, and opens as a SEAL ciphertext of two polynomials",
            2: "SEAL reads the ciphertext, it is of the session's parameters and encrypts something",
            3: "the ciphertext does not cancel out the sum so far",
            4: "the sum is over the set and the aggregate that were shown",
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
                name := re.match(r"test_(sp|pt|og|sv|sa|ss|os|ov|ks|kv)_(\d+)_", node.name)
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
