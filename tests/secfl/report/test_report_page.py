"""The page says what the records say, and nothing that somebody wrote into them becomes markup."""

from __future__ import annotations

import re
import subprocess
import sys

import matplotlib as mpl
import msgspec
import pytest
from read_page import Page
from sample_run import LATE, SILOS, halted_report, plain_report, sample_report

from secfl.report import render_html
from secfl.report.display import DASH, decimal, grouped, rounded_up
from secfl.report.model import Claim, RunReport

BUILDERS = [sample_report, plain_report, halted_report]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></script><script src=https://evil.example/x.js></script>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "--><svg onload=alert(1)>]]>",
    "&lt;script&gt;",
    "$\\frac{1}{$ _private",
    "_hidden",
    "javascript:alert(1)",
]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(sample_report()))


def floats(cells: list[list[str]]) -> list[float | None]:
    return [float(cell[0]) if cell else None for cell in cells]


def test_silo_table_has_the_exact_numbers_of_the_records(page):
    shown, exact = page.table("Silo", "Spent", "Remaining")
    assert [row[0] for row in shown] == list(SILOS)
    for silo, numbers in zip(sample_report().silos, exact, strict=True):
        assert floats(numbers[1:]) == [
            silo.budget_epsilon,
            silo.delta,
            silo.spent_epsilon,
            silo.reserved_epsilon,
            silo.remaining_epsilon,
            silo.rounds_left,
            silo.prv_epsilon,
        ]
    assert shown[0][1:] == ["3", "0.00001", "3.000", "0", "0", "0", "2.752"]


def test_prv_is_labelled_as_a_cross_check(page):
    assert "PRV cross-check, not the claim" in page.text("silos")


def test_training_table_has_the_public_constants(page):
    _, exact = page.table("Silo", "Sampling rate q", "Clipping norm")
    for silo, numbers in zip(sample_report().silos, exact, strict=True):
        assert floats(numbers[1:]) == [
            silo.nominal_records,
            silo.sampling_rate,
            silo.noise_multiplier,
            silo.steps_per_round,
            silo.clip_norm,
        ]


def test_every_claim_stands_with_all_its_parts(page):
    text = page.text("promise")
    report = sample_report()
    for claim in report.claims:
        assert f"Against: {claim.adversary} {claim.sentence}" in text
    part = "unit of privacy record neighbouring relation add or remove one record of one silo accountant RDP filter"
    assert text.count(part) == 3
    numbers = [float(value) for where, value, _ in page.numbers if where == "promise"]
    assert numbers[:6] == [report.claims[0].epsilon, 1e-5] * 3


def test_group_table_follows_from_the_claim(page):
    shown, exact = page.table("For the claim against", "k", "epsilon", "delta")
    epsilon = sample_report().claims[0].epsilon
    assert shown[0][0] == "outsider, server, another silo"
    rows = [row[-3:] for row in exact[:2]]
    assert [float(row[0][0]) for row in rows] == [1, 2]
    assert [float(row[1][0]) for row in rows] == [epsilon, 2 * epsilon]
    assert float(rows[0][2][0]) == 1e-5
    assert float(rows[1][2][0]) == pytest.approx(1e-5 * (1 + 2.718281828459045**epsilon))
    assert shown[2][-2:] == ["5", "nothing is promised"]


def test_rounds_table_has_contributors_dropouts_refusals_and_metric(page):
    shown, exact = page.table("Round", "Outcome", "In the sum", "AUC")
    report = sample_report()
    assert [float(row[-1][0]) for row in exact] == [row.metric for row in report.rounds]
    assert shown[0][1:5] == ["completed", "4 of 4", DASH, DASH]
    assert shown[LATE - 1][2:4] == ["3 of 4: cleveland, hungarian, switzerland", "va in MaskedInput"]
    assert shown[3][4] == "hungarian in ShareKeys: client 'hungarian': message of another session"


def test_epsilon_by_round_and_silo_is_there_as_numbers(page):
    shown, exact = page.table("Round", *SILOS)
    for row, numbers in zip(sample_report().rounds, exact, strict=True):
        assert floats(numbers[1:]) == [row.epsilon[name] for name in SILOS]
    assert len(shown) == 10


def test_phase_table_sums_over_parties_and_rounds(page):
    shown, exact = page.table("Phase", "Times run", "Dropouts")
    report = sample_report()
    for name, numbers in zip([row[0] for row in shown], exact, strict=True):
        phases = [phase for row in report.rounds for phase in row.phases if phase.phase == name]
        assert floats(numbers[1:]) == [
            10,
            pytest.approx(sum(phase.seconds for phase in phases)),
            sum(phase.bytes_up for phase in phases),
            sum(phase.bytes_down for phase in phases),
            sum(len(phase.dropped) for phase in phases),
            sum(len(phase.faults) for phase in phases),
        ]


def test_every_phase_of_every_round_is_there(page):
    _, exact = page.table("Round", "Phase", "Answered")
    phases = [phase for row in sample_report().rounds for phase in row.phases]
    assert [floats(numbers[2:]) for numbers in exact] == [
        [len(phase.answered), phase.seconds, phase.bytes_up, phase.bytes_down] for phase in phases
    ]


def test_evidence_is_complete(page):
    report, text = sample_report(), page.text()
    for silo in report.silos:
        assert silo.ledger_head in text
        assert silo.public_key in text
        assert silo.lineage in text
        assert all(release.run in text for release in silo.releases)
    for row in report.rounds:
        assert row.session in text
        assert row.model_hash in text
        assert all(check in text for check in row.checks)
    singles = (report.model_hash, report.run_id, report.mechanism.noise_source, report.data_description)
    for value in (*singles, *report.not_protected):
        assert value in text
    assert " ".join(report.configuration.split()) in text
    for table in (report.protocol_parameters, report.encoding, report.training, report.versions):
        for key, value in table.items():
            shown = value if isinstance(value, str) else {int: grouped, float: decimal}[type(value)](value)
            assert f"{key} {' '.join(shown.split())}" in text


def test_releases_are_there_with_what_they_cost(page):
    shown, exact = page.table("Silo", "Run", "Rounds", "Releases")
    assert [row[0] for row in shown] == ["cleveland", "hungarian", "switzerland", "va", "va", "va"]
    assert [row[2] for row in shown] == ["1 to 10"] * 3 + ["1 to 6", "7", "8 to 10"]
    assert [row[4] for row in shown] == ["committed"] * 4 + ["sending", "committed"]
    rows = [row for silo in sample_report().silos for row in silo.releases]
    assert [floats(numbers[5:9]) for numbers in exact] == [
        [row.releases, row.sampling_rate, row.noise_multiplier, row.steps] for row in rows
    ]


def test_metric_is_said_to_be_measured_on_unprotected_records(page):
    text = page.text()
    assert "records that the configuration declares unprotected" in text
    assert "benchmark, no claim" not in text.lower()
    assert sample_report().evaluation.records in page.text("utility")


def test_simulation_says_that_nobody_was_protected(page):
    assert "All parties ran in one process: nobody was protected from anybody." in page.text()
    apart = Page(render_html(msgspec.structs.replace(sample_report(), simulation=False))).text()
    assert "nobody was protected" not in apart
    assert "rehearsal" not in apart


def test_plain_words_state_the_limit_for_one_record(page):
    # (e^3 + 1e-5) / (e^3 + 1) = .95257, rounded up
    assert "they are right at most 96 times in 100" in page.text("plain")
    assert "The promise is for a record, not for a person." in page.text("plain")


@pytest.mark.parametrize("build", BUILDERS)
def test_words_that_promise_too_much_are_never_written(build):
    text = Page(render_html(build())).text().lower()
    assert not re.search(r"anonym|person-level|proven|guarantees? that nobody|fully|impossible", text)


def test_without_privacy_there_is_a_red_banner_no_claim_and_dashes():
    page = Page(render_html(plain_report()))
    banners = [attributes["class"] for tag, attributes in page.tags if "banner" in (attributes.get("class") or "")]
    assert banners == ["banner bad", "banner warn"]
    assert "No differential privacy. No noise was added" in page.text()
    assert "No claim is made. This run has no differential privacy." in page.text("promise")
    assert "times in 100" not in page.text()
    shown, exact = page.table("Silo", "Spent", "Remaining")
    assert all(row[1:] == [DASH] * 7 for row in shown)
    assert all(cell == [] for row in exact for cell in row)
    assert not re.search(r"\b(None|nan|inf)\b", page.text())
    figures = {attributes["aria-labelledby"].split("-")[1] for tag, attributes in page.tags if tag == "svg"}
    assert figures == {"seconds", "bytes", "dropouts"}


def test_halted_run_says_why_and_marks_the_failed_attempts():
    page = Page(render_html(halted_report()))
    assert "Halted. round 4 failed twice" in page.text()
    shown, _ = page.table("Round", "Outcome", "In the sum", "AUC")
    assert [row[0] for row in shown] == ["1", "2", "3", "4", "4.2"]
    assert shown[4][1:3] == ["failed: MaskedInput: 2 parties present, 3 required", "0 of 4"]
    assert shown[4][-1] == DASH
    assert sum(attributes.get("class") == "failed" for _, attributes in page.tags) == 2
    assert "3 of 10 planned, in 5 attempts" in page.text()


def test_run_that_halted_before_its_first_round_is_a_page_without_figures():
    page = Page(
        render_html(
            msgspec.structs.replace(
                halted_report(), rounds=(), silos=(), claims=(), not_protected=(), curves=(), noise=()
            )
        )
    )
    assert "No round was attempted." in page.text("rounds")
    assert "svg" not in [tag for tag, _ in page.tags]
    assert "This does not mean that everything is protected." in page.text("limits")


@pytest.mark.parametrize(
    ("unit", "said", "unsaid"),
    [
        ("client", "How much one organisation's part can show is limited.", "How much one record can show"),
        ("household", "The unit of the claim is: household.", "times in 100"),
    ],
)
def test_unit_other_than_a_record_gets_no_sentence_about_records(unit, said, unsaid):
    report = sample_report()
    claims = tuple(msgspec.structs.replace(claim, unit=unit) for claim in report.claims)
    text = Page(render_html(msgspec.structs.replace(report, claims=claims))).text("plain")
    assert said in text
    assert unsaid not in text


def test_claim_without_numbers_shows_dashes():
    claim = Claim(adversary="server", sentence="", unit="", neighbouring_relation="", epsilon=None, delta=None,
                  accountant="")  # fmt: skip
    page = Page(render_html(msgspec.structs.replace(sample_report(), claims=(claim,))))
    parts = ("Against: server", "epsilon", "delta", "unit of privacy", "neighbouring relation", "accountant")
    shown = " ".join(f"{part} {DASH}" for part in parts)
    assert shown in page.text("promise")


@pytest.mark.parametrize("build", BUILDERS)
def test_page_is_one_file_without_script_or_network(build):
    html = render_html(build())
    page = Page(html)
    assert page.declarations == ["DOCTYPE html"]
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "image", "base", "form"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name in {"src", "srcset", "data", "action"} for name in attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


@pytest.mark.parametrize("build", BUILDERS)
def test_ids_are_unique_and_every_reference_has_its_target(build):
    html = render_html(build())
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = set(re.findall(r"url\(#([^)]*)\)", html))
    for _, attributes in page.tags:
        if (attributes.get("href") or "").startswith("#"):
            targets.add(attributes["href"][1:])
        targets |= set((attributes.get("aria-labelledby") or "").split())
    assert targets - set(page.ids) == set()


def test_figures_have_text_alternatives_with_numbers_and_theme_colours_only(page):
    html = render_html(sample_report())
    figures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(figures) == 9
    for figure in figures:
        assert 'role="img"' in figure
        assert re.search(r"<title id=[^>]*>[^<]+</title><desc id=[^>]*>[^<]+</desc>", figure)
        assert not re.search(r"(fill|stroke)[:=]\s*\"?#", figure)
        assert "<text" in figure
    epsilon, left, curve, metric, trade_off, noise, dropouts, seconds, traffic = figures
    assert "cleveland, hungarian, switzerland, va: 3.000 after round 10; budget 3." in epsilon
    assert "0.8413 after round 10" in metric
    assert "cleveland, hungarian, switzerland, va: 0 left, 3.000 at the start, enough for 0 further rounds" in left
    assert "RDP: 3.694 at delta 0.0000001" in curve
    assert f"0.6214 at epsilon {rounded_up(sample_report().rounds[0].epsilon['va'])}" in trade_off
    assert "9 rounds with 0 missing: 3.580, 1 rounds with 1 missing: 3.580" in noise
    assert "MaskedInput: 1 in round 7." in dropouts
    assert "ShareKeys 304 ms, MaskedInput 9.29 s" in seconds
    assert "MaskedInput to the server 2.23 MB" in traffic
    for figure, label in (
        (epsilon, "epsilon spent"), (metric, "AUC"), (dropouts, "parties"), (seconds, "seconds, all rounds"),
        (traffic, "MB, all rounds and parties"), (left, "epsilon left"), (curve, "delta"), (curve, "epsilon"),
        (trade_off, "epsilon spent, highest silo"), (noise, "silos that dropped out of the round"),
        (noise, "noise / sensitivity"),
    ):  # fmt: skip
        assert f">{label}</text>" in figure


def test_silos_that_differ_have_lines_of_their_own_and_many_become_a_band():
    report = sample_report()

    def spread(count: int) -> RunReport:
        names = [f"silo {number:02}" for number in range(count)]
        silos = tuple(msgspec.structs.replace(report.silos[0], name=name) for name in names)
        rounds = tuple(
            msgspec.structs.replace(row, epsilon={name: row.number * (1 + i) / 90 for i, name in enumerate(names)})
            for row in report.rounds
        )
        return msgspec.structs.replace(report, silos=silos, rounds=rounds)

    few, many = (re.search(r"<svg.*?</svg>", render_html(spread(count)), re.DOTALL)[0] for count in (4, 12))
    assert all(f">silo {number:02}</text>" in few for number in range(4))
    assert len(set(re.findall(r"stroke: var\(--series-\d\)", few))) == 4
    assert len(set(re.findall(r"stroke-dasharray: [\d., ]+", few))) >= 3
    assert ">highest silo</text>" in many
    assert ">lowest silo</text>" in many
    assert "silo 11: 1.334 after round 10" in many


def poisoned(value, text):
    """The same records with every free text replaced."""
    if isinstance(value, dict):
        return {
            (text if key in SILOS else key): item
            if key in {"status", "kind", "schema_version", "started", "privacy_mode", "unit", "state", "label"}
            else poisoned(item, text)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [poisoned(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_report_becomes_markup(text, page):
    report = msgspec.convert(poisoned(msgspec.to_builtins(sample_report()), text), RunReport)
    html = render_html(report)
    hostile = Page(html)
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in page.tags}
    assert {name for _, attributes in hostile.tags for name in attributes} <= {
        name for _, attributes in page.tags for name in attributes
    }
    assert f"Against: {' '.join(text.split())}" in hostile.text()
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert len(re.findall(r"<svg", figures)) == 9
    assert "49" not in hostile.text("promise")


def test_characters_that_hide_or_reorder_are_made_visible():
    html = render_html(msgspec.structs.replace(sample_report(), name="safe\u202egnp.exe\x00\u200b"))
    assert not re.search("[\u202e\x00\u200b]", html)
    assert "safe\ufffdgnp.exe\ufffd\ufffd" in html


def test_same_report_is_the_same_page_in_any_process_and_under_any_settings_of_matplotlib():
    here = render_html(sample_report())
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False, "text.usetex": False}):
        assert render_html(sample_report()) == here
    program = "import sys; sys.path.insert(0, sys.argv[1]); import sample_run, secfl.report as r; " \
        "sys.stdout.buffer.write(r.render_html(sample_run.sample_report()).encode())"  # fmt: skip
    directory = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, check=True, timeout=120)
    assert done.stdout.decode() == here
