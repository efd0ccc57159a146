"""`secfl resume`: go on with a run that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfl.cli.progress import RoundsProgress
from secfl.cli.run import finish, flower, require_report_extra
from secfl.config import load_config
from secfl.federation.session import CONFIGURATION, ENGINE_FILE
from secfl.federation.session import resume as resume_run

__all__ = ["resume"]


def resume(
    directory: Annotated[Path, typer.Argument(help="Directory of the run.", file_okay=False)],
) -> None:
    """Go on from a run's last checkpoint; the interrupted round is tried anew, and charged anew if it was sent."""
    require_report_extra()
    settings, _text = load_config(directory / CONFIGURATION)
    with RoundsProgress(settings) as progress:
        if (directory / ENGINE_FILE).exists():
            _, report = flower().relaunch(directory, observer=progress.show)
        else:
            report = resume_run(directory, observer=progress.show).report
    finish(report, directory)
