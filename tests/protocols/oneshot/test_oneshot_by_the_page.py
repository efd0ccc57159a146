"""The recorded session read by the words of docs/reference/oneshot-messages.md alone, without code of `protocols`.

Integers of Python, `hashlib` and `cryptography`; the vectors' generator only hands over the recorded bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey
from cryptography.hazmat.primitives.hpke import Suite as Hpke

VECTORS = Path(__file__).parents[2] / "vectors"
NAMES = ("c00", "c01", "c02")
P = 2**31 - 1
N, SLOTS, WIDTH, DELTA, Q, RHO, T = 4096, 4, 14, 2**8, 64, 3, 2
"""From the page's table of what follows from the parameters."""


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_oneshot", VECTORS / "generate_oneshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
RECORD = json.loads((VECTORS / "v1" / "oneshot_session.json").read_text())
SESSION = GENERATOR.session(RECORD["sealed_shares"], keep=bytes)


def parts(*items: bytes | int | str) -> bytes:
    out = b""
    for item in items:
        if isinstance(item, bytes):
            kind, body = b"b", item
        elif isinstance(item, str):
            kind, body = b"s", item.encode()
        else:
            kind, body = b"i", item.to_bytes((item.bit_length() + 7) // 8, "big")
        out += kind + len(body).to_bytes(8, "little") + body
    return out


def h(label: str, *items: bytes | int | str) -> bytes:
    return hashlib.sha256(parts(f"secfl/v1/{label}", *items)).digest()


def unpacked(payload: bytes, count: int, bits: int) -> list[int]:
    whole = int.from_bytes(payload, "little")
    assert whole >> (count * bits) == 0
    return [whole >> (i * bits) & ((1 << bits) - 1) for i in range(count)]


def message(phase: str, party: str, way: str) -> list[bytes]:
    (found,) = (item for item in SESSION["messages"] if (item["phase"], item["party"]) == (phase, party))
    return found[way]


PARAMETERS = bytes.fromhex(RECORD["parameters"])
SESSION_ID = h("session", PARAMETERS)


def digest_of(phase: str, reply: list[bytes]) -> bytes:
    header, *chunks, _ = reply
    content = hashlib.sha256(b"".join(chunks)).digest()
    return h("reply", SESSION_ID, phase, hashlib.sha256(header).digest(), content)


def words_of_public_polynomial() -> list[int]:
    key = h("oneshot/public-polynomials", SESSION_ID)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(8 * N))
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(N)]


def coefficients(words: list[int]) -> list[int]:
    return words[0::2] + words[1::2]


def share(dealer: int, member: int) -> list[int]:
    sealed = message("Contribution", NAMES[dealer], "reply")[1 + member][8:]
    raw = bytes.fromhex(RECORD["committee_keys"][NAMES[member]])
    private = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(raw[:64]), X25519PrivateKey.from_private_bytes(raw[64:])
    )
    info = parts("secfl/v1/oneshot/share", SESSION_ID, dealer, member)
    opened = Hpke(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(sealed, private, info)
    return unpacked(opened, N + 5, 31)


def value_at_secret_point(points: list[int], values: list[int]) -> int:
    at, total = P - 1, 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        weight = 1
        for j, other in enumerate(points):
            if i != j:
                weight = weight * (at - other) * pow(x - other, -1, P) % P
        total += y * weight
    value = total % P
    return value - P if value > P // 2 else value


def key_of(shares: dict[int, list[int]]) -> list[int]:
    """Words of a key, from T members' shares."""
    points = [1 + member for member in shares]
    return [value_at_secret_point(points, list(values)) for values in zip(*shares.values(), strict=True)][:N]


def opened(ciphertext: list[int], key_words: list[int]) -> list[int]:
    """Entries in the coefficients that travelled."""
    a, s = coefficients(words_of_public_polynomial()), coefficients(key_words)
    entries = []
    for word, value in enumerate(ciphertext):
        k = word // 2 + (N // 2 if word % 2 else 0)
        product = sum(a[i] * s[k - i] for i in range(k + 1)) - sum(a[i] * s[N + k - i] for i in range(k + 1, N))
        noisy = ((value << RHO) - product) % 2**Q
        plain = (noisy + DELTA // 2) // DELTA % 2 ** (Q - 8)
        entries += [plain >> (slot * WIDTH) & ((1 << WIDTH) - 1) for slot in range(SLOTS)]
    return entries


def test_session_id_signatures_and_root_are_those_of_the_page() -> None:
    assert SESSION_ID.hex() == RECORD["session_id"]
    (roster,) = msgspec.msgpack.decode(bytes.fromhex(RECORD["roster"]))
    keys = {entry[0]: entry[1] for entry in roster}
    for item in SESSION["messages"]:
        public = Ed25519PublicKey.from_public_bytes(keys[item["party"]])
        public.verify(item["reply"][-1], digest_of(item["phase"], item["reply"]))
        with pytest.raises(InvalidSignature):
            public.verify(item["reply"][-1], digest_of("Blame", item["reply"]))
    leaves = [hashlib.sha256(b"\x00" + chunk[8:]).digest() for chunk in message("Contribution", "c00", "reply")[1:4]]
    joined = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    root = hashlib.sha256(b"\x01" + joined + leaves[2]).digest()
    assert msgspec.msgpack.decode(message("Contribution", "c00", "reply")[0])[6] == root


@pytest.mark.parametrize("client", [0, 1, 2])
@pytest.mark.parametrize("members", [(0, 1), (1, 2)])
def test_ciphertext_on_record_opens_under_the_key_that_any_two_shares_give(
    client: int, members: tuple[int, ...]
) -> None:
    key = key_of({member: share(client, member) for member in members})
    assert max(map(abs, key)) <= 32
    chunk = message("Contribution", NAMES[client], "reply")[4]
    assert int.from_bytes(chunk[:8], "little") == 3
    entries = opened(unpacked(chunk[8:], 64, Q - RHO), key)
    assert entries[:150] == RECORD["vectors"][NAMES[client]]
    assert not any(entries[150:])


def test_sum_on_record_opens_under_the_opened_shares_and_no_other() -> None:
    shares = {}
    for member in (0, 1):
        header = msgspec.msgpack.decode(message("Opening", NAMES[member], "reply")[0])
        digests = [
            part
            for index, name in enumerate(NAMES)
            for part in (index, digest_of("Contribution", message("Contribution", name, "reply")))
        ]
        assert header[6] == h("oneshot/contributors", SESSION_ID, *digests)
        shares[member] = unpacked(header[7], N + 5, 31)
    total = [0] * 64
    for name in NAMES:
        sent = unpacked(message("Contribution", name, "reply")[4][8:], 64, Q - RHO)
        total = [a + b for a, b in zip(total, sent, strict=True)]
    entries = opened(total, key_of(shares))
    assert [entry % 2**12 for entry in entries[:150]] == RECORD["sum"]
    shares[1][0] = (shares[1][0] + 1) % P
    assert [entry % 2**12 for entry in opened(total, key_of(shares))[:150]] != RECORD["sum"]


def blame_coefficients(set_hash: bytes) -> list[int]:
    key = h("oneshot/blame", SESSION_ID, set_hash)
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(4 * (5 * N + 64)))
    words = [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(5 * N + 64)]
    return [word % P for word in words if word < 2 * P][: 5 * N]


def test_answer_to_blame_is_five_combinations_of_each_share_and_its_blindings() -> None:
    cast = GENERATOR.Cast(RECORD["sealed_shares"])
    cast.run(bytes)
    request, reply = GENERATOR.blame(cast)
    asked, told = msgspec.msgpack.decode(request[0]), msgspec.msgpack.decode(reply[0])
    set_hash = msgspec.msgpack.decode(message("Opening", "c00", "reply")[0])[6]
    assert asked[5] == told[6] == set_hash
    coefficients_of = blame_coefficients(set_hash)
    combinations = unpacked(told[7], 15, 31)
    for client in range(3):
        values = share(client, 0)
        for number in range(5):
            row = coefficients_of[number * N : (number + 1) * N]
            expected = (sum(r * v for r, v in zip(row, values[:N], strict=True)) + values[N + number]) % P
            assert combinations[5 * client + number] == expected
