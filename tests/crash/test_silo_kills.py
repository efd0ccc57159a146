"""Kill -9 of a silo with a privacy ledger: what left is charged, what did not leave is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_scenarios import Round, Rounds
from crash_silos import SiloWorld, silo_process
from crash_supervisor import Plan, seams, sent
from crash_world import PARTIES

from secfl.privacy import Ledger
from secfl.privacy.ledger import ReleaseState

VICTIM = "b"
PHASE = "MaskedInput"


def require_charged_for_what_left(done: Round) -> None:
    """Charged if and only if the vector was on its way; a silo that died between its ledger and its wire is charged for
    what it was about to send, since nobody can know.
    """
    world = done.world
    assert isinstance(world, SiloWorld)
    for name in PARTIES:
        left = any(phase == PHASE for _session, phase in sent(world, name))
        if name in done.killed and not left and world.charged(name):
            # The seams after the last line of the ledger: nothing but the way to the wire.
            last = seams(world, name)[-1]
            assert last in {"fsync:before", "fsync:after", "rename:before", "rename:after"}
            continue
        assert world.charged(name) == left, name
    with Ledger.open(world.ledger_path(VICTIM), world.identities[VICTIM].signing_key, timeout=5) as ledger:
        assert all(item.state is not ReleaseState.RESERVED for item in ledger.releases())


@pytest.fixture
def rounds(folder: Path) -> Rounds:
    return Rounds(folder, "secagg", SiloWorld, silo_process)  # type: ignore[arg-type]


@pytest.mark.parametrize("comes_back", [True, False])
def test_silo_killed_while_it_reserves_is_charged_nothing(rounds: Rounds, comes_back: bool) -> None:
    names = rounds.undisturbed(VICTIM)[VICTIM]
    request = [at for at, name in enumerate(names) if name == "received request"][2]
    done = rounds.run(Plan({VICTIM: (request + 3,)}, comes_back=comes_back))
    assert (done.end, done.killed) == ("sum over fewer", (VICTIM,))
    require_charged_for_what_left(done)
    assert not done.world.charged(VICTIM)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("comes_back", [True, False])
def test_silo_killed_at_every_seam_is_charged_for_what_left(rounds: Rounds, comes_back: bool) -> None:
    for seam in range(len(rounds.undisturbed(VICTIM)[VICTIM])):
        done = rounds.run(Plan({VICTIM: (seam,)}, comes_back=comes_back))
        assert done.killed == (VICTIM,)
        require_charged_for_what_left(done)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_server_killed_in_every_phase_charges_each_silo_once(rounds: Rounds) -> None:
    passed = rounds.undisturbed("server")["server"]
    for seam in range(0, len(passed), 10):
        done = rounds.run(Plan({"server": (seam,)}))
        assert (done.end, done.killed) == ("sum over all", ("server",))
        require_charged_for_what_left(done)
        assert all(done.world.charged(name) for name in PARTIES)  # type: ignore[attr-defined]
