"""One self-contained HTML page about a search."""

from qsearch.report.data import Crop, Picture, ReportData
from qsearch.report.page import write_report

__all__ = ["Crop", "Picture", "ReportData", "write_report"]
