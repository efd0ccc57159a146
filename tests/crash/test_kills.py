"""Kill -9 of every process at every seam: the sum of exactly its contributors, or a named error; never two answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_points import copy_away
from crash_scenarios import Rounds
from crash_supervisor import Plan, brought_back, seams, sent
from crash_world import HOLDER, PARTIES, World

PROTOCOLS = ("secagg", "oneshot", "ckks")
VICTIM = "b"


def found(names: list[str], *wanted: str) -> int:
    """Number of the seam at which these names come one after another, the last of them."""
    places = (at for at in range(len(names)) if tuple(names[at - len(wanted) + 1 : at + 1]) == wanted)
    return next(places)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_undisturbed_round_passes_every_kind_of_seam(folder: Path, protocol: str) -> None:
    passed = Rounds(folder, protocol).undisturbed("server", VICTIM)
    server, party = map(set, passed.values())
    assert server >= {"received reply", "sql:insert", "sql:commit", "sql:committed", "close_phase:before"}
    assert server >= {"send request:before", "send request:half", "send request:after", "send taken:half"}
    assert party >= {"received request", "record:before", "record:after", "fsync:before", "rename:before"}
    assert party >= {"send reply:before", "send reply:half", "send reply:after", "received taken"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_server_killed_around_a_commit_and_a_phases_end_gives_the_sum_over_all(folder: Path, protocol: str) -> None:
    rounds = Rounds(folder, protocol)
    names = rounds.undisturbed("server")["server"]
    closing = len(names) - 1 - names[::-1].index("close_phase:before")
    for seam in (found(names, "sql:insert", "sql:commit"), closing + found(names[closing:], "sql:committed")):
        done = rounds.run(Plan({"server": (seam,)}))
        assert (done.end, done.killed) == ("sum over all", ("server",))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("comes_back", [True, False])
def test_party_killed_between_its_record_and_its_answer_answers_once(
    folder: Path, protocol: str, comes_back: bool
) -> None:
    rounds = Rounds(folder, protocol)
    names = rounds.undisturbed(VICTIM)[VICTIM]
    first_answer = names[: names.index("send reply:before")]
    recorded = len(first_answer) - 1 - first_answer[::-1].index("record:after")
    done = rounds.run(Plan({VICTIM: (recorded,)}, comes_back=comes_back))
    assert (done.end, done.killed) == ("sum over fewer", (VICTIM,))
    answered = [phase for _session, phase in sent(done.world, VICTIM)]
    # Back again it has no answer to give to the first request; a member of the committee goes on as such.
    assert answered == (["Check", "Opening"] if comes_back and protocol == "oneshot" else [])


@pytest.mark.parametrize(("comes_back", "end"), [(True, "sum over all"), (False, "ThresholdNotMet")])
def test_key_holder_killed_between_its_record_and_its_answer_decrypts_the_same_sum_or_none(
    folder: Path, comes_back: bool, end: str
) -> None:
    """What it may decrypt is on record by its digest; what it releases is rounded: the same sum is the same bytes."""
    rounds = Rounds(folder, "ckks")
    names = rounds.undisturbed(HOLDER)[HOLDER]
    recorded = len(names) - 1 - names[::-1].index("record:after")
    done = rounds.run(Plan({HOLDER: (recorded,)}, comes_back=comes_back))
    assert (done.end, done.killed) == (end, (HOLDER,))
    assert len(sent(done.world, HOLDER)) == comes_back


def test_key_holder_killed_before_its_record_comes_back_and_decrypts(folder: Path) -> None:
    rounds = Rounds(folder, "ckks")
    names = rounds.undisturbed(HOLDER)[HOLDER]
    done = rounds.run(Plan({HOLDER: (names.index("record:before"),)}))
    assert (done.end, done.killed) == ("sum over all", (HOLDER,))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_key_holder_killed_at_every_seam_decrypts_once_or_not_at_all(folder: Path) -> None:
    rounds = Rounds(folder, "ckks")
    ends: Counter[str] = Counter()
    for seam in range(len(rounds.undisturbed(HOLDER)[HOLDER])):
        done = rounds.run(Plan({HOLDER: (seam,)}))
        assert done.killed == (HOLDER,), seam
        ends[done.end] += 1
    # Once its session is saved as answered, the answer itself is gone with the process: no sum, and no second one.
    assert ends.keys() == {"sum over all", "ThresholdNotMet"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestEverySeam:
    def test_server_killed_at_every_seam_gives_the_sum_over_all(self, folder: Path, protocol: str) -> None:
        """Of the SQL statements, which are much alike, every third."""
        rounds = Rounds(folder, protocol)
        names = rounds.undisturbed("server")["server"]
        chosen = [at for at, name in enumerate(names) if not name.startswith("sql:") or at % 3 == 0]
        assert len(chosen) > 80
        for seam in chosen:
            done = rounds.run(Plan({"server": (seam,)}))
            assert (done.end, done.killed) == ("sum over all", ("server",)), seam

    @pytest.mark.parametrize("comes_back", [True, False])
    def test_party_killed_at_every_seam_is_in_the_sum_or_out_of_it(
        self, folder: Path, protocol: str, comes_back: bool
    ) -> None:
        rounds = Rounds(folder, protocol)
        ends: Counter[str] = Counter()
        for seam in range(len(rounds.undisturbed(VICTIM)[VICTIM])):
            done = rounds.run(Plan({VICTIM: (seam,)}, comes_back=comes_back))
            assert done.killed == (VICTIM,), seam
            assert set(PARTIES) - set(done.outcome.contributors) <= {VICTIM}
            ends[done.end] += 1
        assert ends.keys() == {"sum over all", "sum over fewer"}

    def test_several_killed_in_one_round_end_in_a_sum_or_a_named_error(self, folder: Path, protocol: str) -> None:
        rounds = Rounds(folder, protocol)
        everybody = ("server", *PARTIES, *((HOLDER,) if protocol == "ckks" else ()))
        seams_of = rounds.undisturbed(*everybody)
        generator = random.Random(f"several/{protocol}")
        ends: Counter[str] = Counter()
        for _ in range(60):
            victims = generator.sample(everybody, generator.randint(2, 4))
            kills = {
                name: tuple(generator.randrange(len(seams_of[name])) for _ in range(generator.randint(1, 3)))
                for name in victims
            }
            done = rounds.run(Plan(kills, comes_back=generator.random() < 0.5))
            ends[done.end] += 1
        assert ends.keys() >= {"sum over all", "sum over fewer", "ThresholdNotMet"}


def old_copies(world: World, places: dict[str, Path], at: dict[str, int], killed_at: dict[str, int]) -> Plan:
    """Each of these is copied at one seam, killed at a later one, and begins again from the copy."""
    backups = {name: world.directory / f"old-{name}" for name in places}
    acts: dict[str, dict[int, Callable[[], None]]] = {}
    for name, place in places.items():
        acts[name] = {at[name]: copy_away(world.directory / place, backups[name])}
    restarts = {name: brought_back(backups[name], world.directory / place) for name, place in places.items()}
    return Plan({name: (seam,) for name, seam in killed_at.items()}, acts=acts, before_restart=restarts)


PARTY_FILES = {VICTIM: Path(VICTIM, "sessions")}
SERVER_FILES = {"server": Path("server")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_party_and_server_brought_back_to_old_copies_give_no_second_answer(folder: Path, protocol: str) -> None:
    """Both forget what they did; the server asks again, the party answers with the same bytes or not at all."""
    rounds = Rounds(folder, protocol)
    names = rounds.undisturbed("server", VICTIM)
    last = {name: len(passed) - 1 for name, passed in names.items()}
    end = {"server": names["server"].index("received reply", last["server"] - 60), VICTIM: last[VICTIM] - 1}
    copied = {"server": 60, VICTIM: names[VICTIM].index("received taken")}
    done = rounds.run(lambda world: old_copies(world, PARTY_FILES | SERVER_FILES, copied, end))
    assert sorted(done.killed) == [VICTIM, "server"]
    assert seams(done.world, VICTIM, life=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("who", ["party", "server", "both"])
def test_old_copies_of_any_seam_give_no_second_answer(folder: Path, protocol: str, who: str) -> None:
    rounds = Rounds(folder, protocol)
    places = {"party": PARTY_FILES, "server": SERVER_FILES, "both": PARTY_FILES | SERVER_FILES}[who]
    passed = rounds.undisturbed(*places)
    generator = random.Random(f"old copies/{protocol}/{who}")
    for _ in range(25):
        pairs = {name: sorted(generator.sample(range(5, len(names)), 2)) for name, names in passed.items()}
        at = {name: pair[0] for name, pair in pairs.items()}
        killed_at = {name: pair[1] for name, pair in pairs.items()}
        done = rounds.run(lambda world, at=at, killed_at=killed_at: old_copies(world, places, at, killed_at))
        assert done.killed
