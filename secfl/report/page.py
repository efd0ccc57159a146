"""The HTML page: templates filled from a report. Every text of a report is untrusted and escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from protocols.errors import MissingExtra
from secfl.report import display, summary
from secfl.report.figures import draw_all
from secfl.report.local import LocalReport
from secfl.report.model import RunReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["environment", "readable", "render_html", "render_local", "style_sheet"]


def render_html(report: RunReport) -> str:
    """Return the report as one HTML page: no script, no network, the same text for the same report.

    :raises MissingExtra: the extra ``report`` (jinja2, matplotlib) is not installed.
    """
    from_template = environment()
    drawings = draw_all(report)
    return from_template.get_template("report.html.j2").render(
        report=report, figures=drawings, style=style_sheet(), **_derived(report)
    )


def render_local(report: LocalReport) -> str:
    """Return a silo's own report as a page.

    :raises MissingExtra: the extra ``report`` (jinja2, matplotlib) is not installed.
    """
    return environment().get_template("local.html.j2").render(report=report, style=style_sheet())


def readable(page: str) -> list[str]:
    """What a page says, element by element: texts, exact numbers and the words of figures, without their drawing.

    Figures depend on the version of matplotlib; their words do not.
    """
    from html.parser import HTMLParser

    found: list[str] = []

    class Reader(HTMLParser):
        drawing = 0

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag == "svg":
                self.drawing = 1
            elif tag in ("title", "desc") and self.drawing:
                self.drawing = 2
            elif not self.drawing:
                found.append(f"<{tag} {sorted(attributes)}>")

        def handle_endtag(self, tag: str) -> None:
            if tag == "svg":
                self.drawing = 0
            elif tag in ("title", "desc") and self.drawing:
                self.drawing = 1

        def handle_data(self, data: str) -> None:
            if self.drawing != 1 and data.strip():
                found.append(data)

    reader = Reader()
    reader.feed(page)
    reader.close()
    return found


def _derived(report: RunReport) -> dict[str, Any]:
    """What the page shows besides the records themselves."""
    groups = summary.grouped(report.groups)
    spends = [silo for silo in report.silos if silo.spent_epsilon is not None]
    return {
        "phase_totals": summary.phase_totals(report.rounds),
        "checks": summary.checks(report.rounds),
        "groups": groups,
        "guess_bound": summary.worst_guess(report.claims),
        "shared": report.mechanism.share_sigma is not None,
        "levels": summary.level_names(report.silos),
        "registry": summary.flat(report.deployment.get("deployment", {})),
        "silo_groups": summary.silo_groups(report.silos),
        "epsilon_columns": summary.epsilon_columns(report),
        "achieved": summary.achieved_noise(report.noise),
        "highest": max(spends, key=lambda silo: silo.spent_epsilon or 0.0, default=None),
        "seconds": summary.run_seconds(report),
        "completed_rounds": sum(row.completed for row in report.rounds),
        "dropout_count": sum(len(names) for row in report.rounds for _, names in summary.dropouts(row)),
        "fault_count": sum(len(summary.faults(row)) for row in report.rounds),
        "units": sorted({claim.unit for claim in report.claims}),
    }


@cache
def environment() -> Environment:
    """Templates of all pages, with everything escaped.

    :raises MissingExtra: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("the HTML report", "report") from error
    environment = Environment(
        loader=PackageLoader("secfl.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "up": _number(display.rounded_up),
        "down": _number(display.rounded_down),
        "measured": _number(display.measured),
        "decimal": _number(display.decimal),
        "count": _number(display.grouped),
        "bytes": _number(display.byte_size),
        "duration": _number(display.duration),
        "constant": _constant,
        "up_constant": _number(display.rounded_up_constant),
        "inflation": _number(display.inflation),
        "moment": display.moment,
        "percent_up": lambda share: f"{-int(-share * 100 // 1)}",
    }
    environment.globals |= {
        # Not the literal none: constants are printed when a template is compiled, past `finalize`.
        "dash": None,
        "attempt_label": summary.attempt_label,
        "called": summary.called,
        "dropouts": summary.dropouts,
        "faults": summary.faults,
    }
    return environment


@cache
def style_sheet() -> Markup:
    """The one style sheet of all pages."""
    from importlib.resources import files

    from markupsafe import Markup

    # The package's own file, which holds no "<": nothing of a report enters it.
    return Markup((files("secfl.report") / "templates" / "style.css").read_text("utf-8"))  # noqa: S704


def _shown(value: Any) -> Any:
    """What an expression of a template prints: a dash for what is missing, no invisible characters."""
    from markupsafe import Markup

    if value is None or value == "":
        return Markup('<span class="missing" title="not available">{}</span>').format(display.DASH)
    return display.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(show: Callable[[Any], str]) -> Callable[[Any], Any]:
    """A filter that shows a number rounded and keeps the exact one in the markup; None stays None."""

    def shown(value: float | None) -> Markup | None:
        from markupsafe import Markup

        return None if value is None else Markup('<data value="{}">{}</data>').format(repr(value), show(value))

    return shown


def _constant(value: str | int | float) -> Any:
    """A value of a table of parameters."""
    if isinstance(value, str):
        return value
    return _number(display.grouped if isinstance(value, int) else display.decimal)(value)
