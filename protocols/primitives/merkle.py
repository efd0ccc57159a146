"""Merkle trees (RFC 9162, section 2.1; the same hashes as RFC 6962): SHA-256, leaves and nodes apart by a prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from protocols.errors import FaultReason, PeerFault, UsageError

__all__ = ["MerkleTree", "joint_root", "root", "verify_path"]


class MerkleTree:
    """The tree over a list of leaves; it keeps all its nodes, so that a path costs no hashing.

    :param leaves: at least one leaf, of any lengths.
    :raises UsageError: no leaf.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise UsageError("a Merkle tree has at least one leaf")
        self._levels = [[_leaf_hash(leaf) for leaf in leaves]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            level = [_node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            if len(below) % 2:
                level.append(below[-1])  # rises as it is, until it has a neighbour to the left
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """Hash of the whole tree, 32 bytes. It does not fix the number of leaves: verifiers know it."""
        return self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """The hashes that prove leaf ``index`` to who knows the root: from the leaf up, at most log2 of the leaves.

        :raises UsageError: no such leaf.
        """
        if not 0 <= index < len(self._levels[0]):
            raise UsageError(f"no leaf {index} among {len(self._levels[0])}")
        path = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index //= 2
        return path

    def joint_path(self, indices: Iterable[int]) -> list[bytes]:
        """The hashes that prove several leaves at once: those that `joint_root` asks for, and none for all leaves.

        From the leaves up, in each level from the left.

        :raises UsageError: no index, or no such leaf.
        """
        known = set(indices)
        if not known or not 0 <= min(known) <= max(known) < len(self._levels[0]):
            raise UsageError(f"leaves {sorted(known)} are not all among {len(self._levels[0])}")
        path = []
        for level in self._levels[:-1]:
            path += [level[at ^ 1] for at in sorted(known) if at ^ 1 < len(level) and at ^ 1 not in known]
            known = {at // 2 for at in known}
        return path


def root(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over the leaves, 32 bytes.

    :raises UsageError: no leaf.
    """
    return MerkleTree(leaves).root


def verify_path(tree_root: bytes, leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> None:
    """Check that ``leaf`` is leaf ``index`` of the tree of ``size`` leaves with this root.

    :param index: 0..size - 1; like ``size`` from the verifier's own knowledge.
    :raises UsageError: index or size out of range.
    :raises PeerFault: ``BAD_PATH`` for a path of another length or with hashes that do not lead to the root.
    """
    if not 0 <= index < size:
        raise UsageError(f"no leaf {index} among {size}")
    hashes = iter(path)
    current = _leaf_hash(leaf)
    last = size - 1  # index of the level's last node
    while last:
        if index ^ 1 <= last:
            sibling = next(hashes, None)
            if sibling is None:
                raise PeerFault(FaultReason.BAD_PATH, "fewer hashes than levels")
            current = _node_hash(sibling, current) if index % 2 else _node_hash(current, sibling)
        index, last = index // 2, last // 2
    if next(hashes, None) is not None:
        raise PeerFault(FaultReason.BAD_PATH, "more hashes than levels")
    if current != tree_root:
        raise PeerFault(FaultReason.BAD_PATH)


def joint_root(leaves: Mapping[int, bytes], size: int, path: Sequence[bytes]) -> bytes:
    """Root of a tree of ``size`` leaves of which these are known, by their indices, and ``path`` gives the rest.

    Whoever compares it with a root that is known has all these leaves proven.

    :param leaves: at least one, indices 0..size - 1.
    :raises UsageError: no leaf, or an index out of range.
    :raises PeerFault: ``BAD_PATH`` for a path with more or fewer hashes than are asked for.
    """
    if not leaves or not 0 <= min(leaves) <= max(leaves) < size:
        raise UsageError(f"leaves {sorted(leaves)} are not all among {size}")
    hashes = iter(path)
    level = {index: _leaf_hash(leaves[index]) for index in sorted(leaves)}
    last = size - 1
    while last:
        above: dict[int, bytes] = {}
        for index, current in level.items():
            if index // 2 in above:
                continue  # its neighbour to the left was known
            if index ^ 1 <= last:
                sibling = level.get(index ^ 1) or next(hashes, None)
                if sibling is None:
                    raise PeerFault(FaultReason.BAD_PATH, "fewer hashes than are asked for")
                current = _node_hash(sibling, current) if index % 2 else _node_hash(current, sibling)
            above[index // 2] = current
        level, last = above, last // 2
    if next(hashes, None) is not None:
        raise PeerFault(FaultReason.BAD_PATH, "more hashes than are asked for")
    return level[0]


def _leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
