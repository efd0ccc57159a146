"""Sampling, slots, encryption, decryption of sums, residual check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.oneshot.lattice import Encryption, decrypt_sum, longest_key_sum, public_stream, sample_key
from protocols.oneshot.records import LATTICES
from protocols.oneshot.slots import Layout, Slots, choose_layout, choose_slots
from protocols.primitives.prg import MaskStream
from protocols.primitives.ring import word_dtype
from protocols.session import SessionId
from protocols.testing.randomness import DeterministicEntropy

LATTICE = LATTICES[1]
SESSION = SessionId(bytes(range(32)))
N = LATTICE.degree


def test_records_never_change() -> None:
    assert {record.id: (record.degree, record.random_bits) for record in LATTICES.values()} == {1: (4096, 64)}
    assert (LATTICE.variance, LATTICE.largest) == (16, 32)


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_key_is_the_centred_popcount_of_the_cipher_stream() -> None:
    key = sample_key(LATTICE, DeterministicEntropy("key"))
    assert key.dtype == np.int64
    assert key.shape == (N,)
    stream = MaskStream(DeterministicEntropy("key")(32), 64).words(0, N)
    assert key.tolist() == [int(word).bit_count() - 32 for word in stream]


def test_key_has_the_binomial_distribution() -> None:
    """Chi-square over 2^16 coefficients, values pooled in the tails; 1e-6 quantile of 24 degrees is 73.7 or less."""
    drawn = np.concatenate([sample_key(LATTICE, DeterministicEntropy(f"key {i}")) for i in range(16)])
    statistic = 0.0
    for value in range(-12, 13):
        if abs(value) == 12:
            chance = sum(math.comb(64, 32 + v) for v in range(12, 33)) / 2**64
            seen = int((np.sign(value) * drawn >= 12).sum())
        else:
            chance = math.comb(64, 32 + value) / 2**64
            seen = int((drawn == value).sum())
        statistic += (seen - chance * drawn.size) ** 2 / (chance * drawn.size)
    assert 4 < statistic < 73.7
    assert abs(drawn.var() - 16) < 0.5


def test_keys_and_sessions_have_streams_of_their_own() -> None:
    assert (sample_key(LATTICE, DeterministicEntropy("a")) != sample_key(LATTICE, DeterministicEntropy("b"))).any()
    one, other = public_stream(SESSION).words(0, 64), public_stream(SessionId(bytes(32))).words(0, 64)
    assert (one != other).any()
    assert (public_stream(SESSION).words(10, 54) == one[10:]).all()


def test_sums_of_keys_stay_below_their_longest_norm() -> None:
    keys = [sample_key(LATTICE, DeterministicEntropy(f"key {i}")) for i in range(20)]
    for count in (1, 5, 20):
        norm = float(np.linalg.norm(np.sum(keys[:count], axis=0)))
        assert 0.8 * norm < longest_key_sum(LATTICE, count) < 1.3 * norm
        assert norm < longest_key_sum(LATTICE, count)


# -- slots -------------------------------------------------------------------------------------------------------------


def test_hundred_clients_at_sixteen_bits_take_twenty_six_and_a_half_bits() -> None:
    layout = choose_slots(LATTICE, 100, 16, 0).layout
    assert (layout.slots, layout.width, layout.dropped_bits, layout.delta_bits) == (2, 23, 4, 11)
    assert (layout.modulus_bits, layout.sent_bits) == (57, 53)
    assert layout.bits_per_entry() == 26.5
    assert layout.bits_per_entry() <= 1.3 * 23
    assert layout == choose_slots(LATTICE, 100, 23, 2**15).layout


@given(st.integers(2, 10**5), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_layout_decrypts_and_no_other_is_shorter(clients: int, width: int) -> None:
    """Against all layouts: room above the noise; fewest bits an entry, then most slots, then the smallest modulus."""
    fitting = {}
    for slots in range(1, 64 // width + 1):
        for modulus in range(slots * width + 1, 65):
            half_delta = 2 ** (modulus - slots * width - 1)
            for dropped in range(modulus - slots * width):
                variance = 16 + (4**dropped - 1) / 12
                if half_delta > clients / 2 + 12 * math.sqrt(clients * variance):
                    fitting[(modulus - dropped) / slots, -slots, modulus] = variance
    if not fitting:
        with pytest.raises(UsageError, match="no room"):
            choose_layout(LATTICE, clients, width)
        return
    layout = choose_layout(LATTICE, clients, width)
    best = min(fitting)
    assert (layout.bits_per_entry(), -layout.slots, layout.modulus_bits) == best
    assert layout.variance == fitting[best]
    assert layout.delta_bits + layout.slots * layout.width == layout.modulus_bits <= 64


def test_sums_that_leave_no_room_for_the_noise_are_refused() -> None:
    with pytest.raises(UsageError, match="no room"):
        choose_slots(LATTICE, 100, 64, 0)
    with pytest.raises(UsageError, match="below 2"):
        choose_slots(LATTICE, 100, 16, 2**15)


@st.composite
def summands(draw: st.DrawFn) -> tuple[Slots, list[np.ndarray]]:
    clients = draw(st.integers(1, 5))
    bits = draw(st.integers(8, 40))
    bound = draw(st.one_of(st.just(0), st.integers(1, 2 ** (bits - 1) - 1)))
    length = draw(st.integers(1, 50))
    value = st.integers(-bound, bound) if bound else st.integers(0, 2**bits - 1)
    vectors = [draw(st.lists(value, min_size=length, max_size=length)) for _ in range(clients)]
    dtype = word_dtype(bits)
    arrays = [np.array([entry % 2**bits for entry in vector], dtype) for vector in vectors]
    return choose_slots(LATTICE, clients, bits, bound), arrays


@given(summands())
@settings(max_examples=150, deadline=None)
def test_slots_of_sums_decode_to_sums(case: tuple[Slots, list[np.ndarray]]) -> None:
    slots, vectors = case
    length = len(vectors[0])
    total = np.zeros(slots.layout.coefficients(length), np.uint64)
    for vector in vectors:
        plain = np.full(total.size, 2**64 - 1, np.uint64)
        slots.encode(vector, plain)
        assert int(plain.max()) < 2 ** (slots.layout.slots * slots.layout.width)
        total += plain
    out = np.empty(length, word_dtype(slots.bits))
    slots.decode(total, len(vectors), out)
    assert out.tolist() == [sum(int(v[k]) for v in vectors) % 2**slots.bits for k in range(length)]


def test_largest_sums_do_not_carry_into_the_next_slot() -> None:
    for bound in (0, 2**14, 2**15 - 1):
        slots = choose_slots(LATTICE, 100, 16, bound)
        largest = np.array([bound or 2**16 - 1, 0, bound, 0], np.uint16)
        plain = np.empty(64, np.uint64)
        slots.encode(largest, plain)
        out = np.empty(4, np.uint16)
        slots.decode(plain * np.uint64(100), 100, out)
        assert out.tolist() == [int(value) * 100 % 2**16 for value in largest]


@pytest.mark.parametrize(("value", "fits"), [(100, True), (101, False), (2**16 - 100, True), (2**16 - 101, False)])
def test_entry_beyond_the_bound_is_refused(value: int, fits: bool) -> None:
    slots = choose_slots(LATTICE, 3, 16, 100)
    vector, plain = np.array([0, value], np.uint16), np.empty(64, np.uint64)
    if fits:
        slots.encode(vector, plain)
    else:
        with pytest.raises(UsageError, match="beyond"):
            slots.encode(vector, plain)


def test_entry_that_does_not_fit_the_words_is_refused() -> None:
    slots = choose_slots(LATTICE, 3, 12, 0)
    with pytest.raises(UsageError, match="12 bits"):
        slots.encode(np.array([2**12], np.uint16), np.empty(64, np.uint64))


def test_no_entry_makes_zeros() -> None:
    plain = np.ones(64, np.uint64)
    choose_slots(LATTICE, 3, 12, 5).encode(np.empty(0, np.uint16), plain)
    assert not plain.any()


# -- encryption --------------------------------------------------------------------------------------------------------


def random_plain(layout: Layout, clients: int, coefficients: int, seed: int) -> np.ndarray:
    """Plaintext coefficients of one client that a sum over `clients` of them has room for."""
    below = 2 ** (layout.slots * layout.width) // clients
    return np.random.default_rng(seed).integers(0, below, coefficients, dtype=np.uint64)


def encrypted_sum(layout: Layout, clients: int, coefficients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of keys, of ciphertexts without dropped bits, of plaintexts."""
    key_sum = np.zeros(N, np.int64)
    total, plain_sum = np.zeros(coefficients, np.uint64), np.zeros(coefficients, np.uint64)
    for client in range(clients):
        entropy = DeterministicEntropy(f"client {client}")
        key, plain = sample_key(LATTICE, entropy), random_plain(layout, clients, coefficients, client)
        out = np.empty_like(plain)
        Encryption(LATTICE, layout, SESSION, key, entropy).encrypt(plain, 0, out)
        assert int(out.max()) < 2**layout.sent_bits
        key_sum += key
        total += out
        plain_sum += plain
    return key_sum, total, plain_sum


@pytest.mark.parametrize("coefficients", [64, 1000, N, 4 * N, 5 * N + 7])
@pytest.mark.parametrize("clients", [1, 3, 7])
def test_sum_of_ciphertexts_opens_under_the_sum_of_keys(clients: int, coefficients: int) -> None:
    layout = choose_layout(LATTICE, clients, 20)
    assert layout.dropped_bits > 0
    key_sum, total, plain_sum = encrypted_sum(layout, clients, coefficients)
    decrypt_sum(LATTICE, layout, SESSION, key_sum, clients, total)
    assert (total == plain_sum).all()


def test_ciphertext_without_dropped_bits_opens_as_well() -> None:
    layout = Layout(slots=2, width=23, delta_bits=18, dropped_bits=0, variance=16.0)
    key_sum, total, plain_sum = encrypted_sum(layout, 5, 300)
    decrypt_sum(LATTICE, layout, SESSION, key_sum, 5, total)
    assert (total == plain_sum).all()


def power(word: int) -> int:
    """Of X, whose coefficient a word of a polynomial is."""
    return word // 2 + word % 2 * (N // 2)


def place(exponent: int) -> int:
    """The word that holds the coefficient of a power of X."""
    return exponent % (N // 2) * 2 + exponent % N // (N // 2)


def test_ciphertext_is_the_definition_rounded() -> None:
    """c = a s + e + Delta m by Python integers, with a, s and e from their streams."""
    layout = choose_layout(LATTICE, 100, 23)
    entropy = DeterministicEntropy("definition")
    key = sample_key(LATTICE, entropy)
    plain = random_plain(layout, 100, 64, 1)
    out = np.empty_like(plain)
    Encryption(LATTICE, layout, SESSION, key, entropy).encrypt(plain, 3, out)
    again = DeterministicEntropy("definition")
    again(32)
    errors = MaskStream(again(32), 64).words(3 * N, N)
    public = [int(word) for word in public_stream(SESSION).words(3 * N, N)]
    for k in range(64):
        degree = power(k)
        product = sum(
            public[place(degree - power(j))] * int(key[j]) * (1 if power(j) <= degree else -1) for j in range(N)
        )
        word = product + int(errors[k]).bit_count() - 32 + (int(plain[k]) << layout.delta_bits)
        assert int(out[k]) == ((word + (1 << 3)) >> 4) % 2**53


def test_chunks_of_blocks_encrypt_as_the_whole() -> None:
    layout = choose_layout(LATTICE, 100, 23)
    plain = random_plain(layout, 100, 6 * N + 5, 1)
    whole, parts = np.empty_like(plain), plain.copy()
    entropies = [DeterministicEntropy("chunks"), DeterministicEntropy("chunks")]
    keys = [sample_key(LATTICE, entropy) for entropy in entropies]
    Encryption(LATTICE, layout, SESSION, keys[0], entropies[0]).encrypt(plain, 0, whole)
    encryption = Encryption(LATTICE, layout, SESSION, keys[1], entropies[1])
    for block in (0, 2, 4, 6):
        part = parts[block * N : (block + 2) * N]
        encryption.encrypt(part, block, part)  # in place
    assert (parts == whole).all()


def test_ciphertexts_of_a_constant_look_uniform() -> None:
    layout = choose_layout(LATTICE, 100, 23)
    plain = np.zeros(16 * N, np.uint64)
    entropy = DeterministicEntropy("uniform")
    Encryption(LATTICE, layout, SESSION, sample_key(LATTICE, entropy), entropy).encrypt(plain, 0, plain)
    for shift in (0, 20, 45):
        counts = np.bincount(((plain >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256)
        statistic = float(((counts - 256) ** 2).sum() / 256)
        assert 140 < statistic < 380  # chi-square of 255 degrees, beyond 1e-6 on both sides


# -- residual check ----------------------------------------------------------------------------------------------------

LAYOUT = choose_layout(LATTICE, 100, 23)


def refused(key_sum: np.ndarray, contributors: int, total: np.ndarray) -> str:
    with pytest.raises(PeerFault) as caught:
        decrypt_sum(LATTICE, LAYOUT, SESSION, key_sum, contributors, total)
    assert caught.value.reason is FaultReason.BAD_SECRET
    return caught.value.detail


@pytest.mark.parametrize("coefficients", [64, N, 5 * N + 64])
def test_sum_of_keys_off_by_one_in_one_coefficient_is_noticed(coefficients: int) -> None:
    key_sum, total, _ = encrypted_sum(LAYOUT, 3, coefficients)
    key_sum[17] += 1
    assert refused(key_sum, 3, total).startswith("block 0:")


def test_wrong_session_and_wrong_number_of_contributors_are_noticed() -> None:
    key_sum, total, _ = encrypted_sum(LAYOUT, 3, N)
    with pytest.raises(PeerFault):
        decrypt_sum(LATTICE, LAYOUT, SessionId(bytes(32)), key_sum, 3, total.copy())
    refused(key_sum, 1, total)


def test_damaged_block_is_named() -> None:
    key_sum, total, _ = encrypted_sum(LAYOUT, 3, 7 * N)
    total[5 * N : 6 * N] = total[4 * N : 5 * N]
    assert refused(key_sum, 3, total).startswith("block 5:")


def test_bit_just_below_delta_is_noticed() -> None:
    """A flip of the largest bit below Delta moves the residual by half its range, past twelve deviations."""
    key_sum, total, _ = encrypted_sum(LAYOUT, 3, N)
    total[100] ^= np.uint64(1 << (LAYOUT.delta_bits - 1 - LAYOUT.dropped_bits))
    refused(key_sum, 3, total)


def test_multiples_of_delta_are_not_noticed() -> None:
    """What the check cannot see: a ciphertext that was moved by a multiple of Delta decrypts to another plaintext."""
    key_sum, total, plain_sum = encrypted_sum(LAYOUT, 3, N)
    total[100] += np.uint64(5 << (LAYOUT.delta_bits - LAYOUT.dropped_bits))
    decrypt_sum(LATTICE, LAYOUT, SESSION, key_sum, 3, total)
    assert int(total[100]) == int(plain_sum[100]) + 5
    assert (np.delete(total, 100) == np.delete(plain_sum, 100)).all()


def test_key_sum_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="4096 coefficients"):
        decrypt_sum(LATTICE, LAYOUT, SESSION, np.zeros(8, np.int64), 1, np.zeros(64, np.uint64))
