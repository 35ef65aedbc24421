"""One self-contained HTML page about a search."""

from qsearch.report.data import Crop, FrontData, Picture, ReportData
from qsearch.report.page import write_report
from qsearch.report.pictures import save_crop, save_front

__all__ = ["Crop", "FrontData", "Picture", "ReportData", "save_crop", "save_front", "write_report"]
