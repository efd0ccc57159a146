"""Who stays after complaints about shares that do not open: nobody knows whether the client or the member lies.

Each complaint has a liar at one of its two ends, so the liars cover all complaints. Leaving out a smallest set of
parties that covers them costs no more parties than there are liars: with c of them in league, silent members included,
at least m - c >= t members stay. Who stands against more parties than can lie is left out first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Exclusion", "exclusions", "smallest_cover"]

L = TypeVar("L")
R = TypeVar("R")


@dataclass(frozen=True)
class Exclusion:
    """Whom to leave out so that no member left complains about a client left."""

    members: frozenset[str]
    clients: frozenset[int]


def exclusions(
    complaints: Mapping[str, Collection[int]], lying_clients: int, lying_members: int
) -> Iterator[Exclusion]:
    """Ways to settle complaints, best first.

    First a smallest set of parties, of these one with the fewest clients; then one with the fewest members; last every
    client that a credible member complains about: what is left when members are scarce and clients are not.

    :param complaints: for each complaining member, the clients.
    :param lying_clients: clients that may lie; a member that complains about more lies.
    :param lying_members: members that may lie; a client that more of them complain about lies.
    """
    liars = frozenset(member for member, about in complaints.items() if len(about) > lying_clients)
    credible = {member: about for member, about in complaints.items() if member not in liars}
    counts = Counter(client for about in credible.values() for client in about)
    dealers = frozenset(client for client, number in counts.items() if number > lying_members)
    open_ones = {member: sorted(set(about) - dealers) for member, about in credible.items() if set(about) - dealers}
    members, clients = smallest_cover(open_ones)
    yield Exclusion(liars | members, dealers | clients)
    reverse: dict[int, list[str]] = {}
    for member, about in open_ones.items():
        for client in about:
            reverse.setdefault(client, []).append(member)
    clients, members = smallest_cover(reverse)
    yield Exclusion(liars | members, dealers | clients)
    yield Exclusion(liars, frozenset(counts))


def smallest_cover(edges: Mapping[L, Sequence[R]]) -> tuple[frozenset[L], frozenset[R]]:
    """A smallest set of vertices of a bipartite graph that meets every edge, with as few on the right as any has.

    By Koenig's theorem: from the left vertices that a largest matching leaves out, follow edges to the right and
    matched edges back; the cover is what is not reached on the left and what is reached on the right.
    """
    of_left, of_right = _largest_matching(edges)
    queue = [left for left in edges if left not in of_left]
    reached_right: set[R] = set()
    for left in queue:
        for right in edges[left]:
            if right not in reached_right:
                reached_right.add(right)
                queue.append(of_right[right])
    return frozenset(edges) - frozenset(queue), frozenset(reached_right)


def _largest_matching(edges: Mapping[L, Sequence[R]]) -> tuple[dict[L, R], dict[R, L]]:
    """Grown by one shortest augmenting path for each left vertex that has one."""
    of_left: dict[L, R] = {}
    of_right: dict[R, L] = {}
    for root in edges:
        reached: dict[R, L] = {}
        free = _free_vertex(edges, root, of_right, reached)
        if free is None:
            continue
        right: R | None = free
        while right is not None:
            left = reached[right]
            following = of_left.get(left)
            of_left[left], of_right[right] = right, left
            right = following
    return of_left, of_right


def _free_vertex(edges: Mapping[L, Sequence[R]], root: L, of_right: Mapping[R, L], reached: dict[R, L]) -> R | None:
    """A right vertex without partner that alternating paths from the root reach; `reached` tells from where."""
    queue = [root]
    for left in queue:
        for right in edges[left]:
            if right not in reached:
                reached[right] = left
                if right not in of_right:
                    return right
                queue.append(of_right[right])
    return None
