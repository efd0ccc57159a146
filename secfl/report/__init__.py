"""The report of a run: its records, their JSON, and one self-contained HTML page made from the same records.

The page needs the extra ``report`` (jinja2, matplotlib), imported when a page is rendered; the JSON needs none.
"""

from __future__ import annotations

from secfl.report.files import write_json, write_report
from secfl.report.model import RunReport
from secfl.report.page import render_html

__all__ = ["RunReport", "render_html", "write_json", "write_report"]
