"""One self-contained HTML page about a comparison: no network, readable on a phone, light and dark, keyboard."""

from cmp_rerank.evaluation.report.curve_files import read_curves
from cmp_rerank.evaluation.report.page import build_report, shown_documents, write_report

__all__ = ["build_report", "read_curves", "shown_documents", "write_report"]
