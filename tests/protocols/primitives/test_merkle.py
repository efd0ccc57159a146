"""Merkle trees."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.merkle import MerkleTree, joint_root, root, verify_path

# The reference leaves and roots of the certificate-transparency project (merkle_tree_test), RFC 6962 hashes.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = largest_power_below(len(leaves))
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def inclusion_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    split = largest_power_below(len(leaves))
    if index < split:
        return [*inclusion_path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*inclusion_path(index - split, leaves[split:]), tree_hash(leaves[:split])]


def largest_power_below(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def refused(tree_root, leaf, index, size, path) -> None:
    with pytest.raises(PeerFault) as caught:
        verify_path(tree_root, leaf, index, size, path)
    assert caught.value.reason is FaultReason.BAD_PATH


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size):
    assert root(LEAVES[:size]).hex() == ROOTS[size - 1]


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=40), st.data())
def test_root_and_paths_are_those_of_rfc_9162_and_verify(leaves, data):
    tree = MerkleTree(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    assert tree.root == root(leaves) == tree_hash(leaves)
    assert tree.path(index) == inclusion_path(index, leaves)
    verify_path(tree.root, leaves[index], index, len(leaves), tree.path(index))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 11])
def test_a_path_proves_one_leaf_at_one_place_of_one_tree(size):
    leaves = [bytes([number]) for number in range(size)]
    tree = MerkleTree(leaves)
    for index in range(size):
        path = tree.path(index)
        refused(tree.root, b"other", index, size, path)
        refused(os.urandom(32), leaves[index], index, size, path)
        refused(tree.root, leaves[index], index, size, [*path, bytes(32)])
        for other in set(range(size)) - {index}:
            refused(tree.root, leaves[index], other, size, path)
        for position in range(len(path)):
            refused(tree.root, leaves[index], index, size, path[:position] + path[position + 1 :])
            for altered in (bytes(32), path[position] + b"\x00", path[position][:31], b""):
                refused(tree.root, leaves[index], index, size, [*path[:position], altered, *path[position + 1 :]])


def test_a_node_cannot_be_passed_off_as_a_leaf():
    tree = MerkleTree(LEAVES[:4])
    node = tree.path(0)[1]
    left, right = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in LEAVES[2:4])
    assert node == hashlib.sha256(b"\x01" + left + right).digest()
    sibling = hashlib.sha256(b"\x01" + tree.path(1)[0] + tree.path(0)[0]).digest()
    refused(tree.root, left + right, 1, 2, [sibling])


def test_a_tree_without_leaves_and_leaves_outside_it_are_refused():
    with pytest.raises(UsageError, match="at least one leaf"):
        root([])
    for index in (-1, 3):
        with pytest.raises(UsageError, match="no leaf"):
            MerkleTree([b""] * 3).path(index)
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(UsageError, match="no leaf"):
            verify_path(bytes(32), b"", index, size, [])


# -- several leaves at once --------------------------------------------------------------------------------------------


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    leaves = draw(st.lists(st.binary(max_size=3), min_size=1, max_size=70))
    return leaves, draw(st.lists(st.integers(0, len(leaves) - 1), min_size=1, unique=True))


@given(parts())
def test_joint_path_proves_any_part_of_the_leaves_and_each_of_its_hashes_counts(part) -> None:
    leaves, indices = part
    tree = MerkleTree(leaves)
    path = tree.joint_path(indices)
    known = {index: leaves[index] for index in indices}
    assert joint_root(known, len(leaves), path) == tree.root
    assert len(path) <= sum(len(tree.path(index)) for index in indices)
    for at in range(len(path)):
        changed = [*path[:at], bytes(32), *path[at + 1 :]]
        assert joint_root(known, len(leaves), changed) != tree.root
    for wrong in (path[:-1], [*path, bytes(32)]):
        if len(wrong) != len(path):
            with pytest.raises(PeerFault) as caught:
                joint_root(known, len(leaves), wrong)
            assert caught.value.reason is FaultReason.BAD_PATH
    for index in indices:
        assert joint_root(known | {index: leaves[index] + b"x"}, len(leaves), path) != tree.root


@pytest.mark.parametrize("size", range(1, 40))
def test_joint_path_of_one_leaf_is_its_path_and_of_all_leaves_is_empty(size: int) -> None:
    leaves = [bytes([number]) for number in range(size)]
    tree = MerkleTree(leaves)
    assert all(tree.joint_path([index]) == tree.path(index) for index in range(size))
    assert tree.joint_path(range(size)) == []
    assert joint_root(dict(enumerate(leaves)), size, []) == tree.root


@pytest.mark.parametrize("indices", [[], [-1], [3], [0, 3]])
def test_joint_path_of_leaves_that_are_not_there_is_a_usage_error(indices) -> None:
    tree = MerkleTree([b"a", b"b", b"c"])
    with pytest.raises(UsageError):
        tree.joint_path(indices)
    with pytest.raises(UsageError):
        joint_root(dict.fromkeys(indices, b"a"), 3, [])
