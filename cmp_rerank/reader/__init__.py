"""Readers: extractive question answering, trained comparatively."""

from cmp_rerank.reader.features import make_windows
from cmp_rerank.reader.windows import WholePassages, Window, WindowCounts, Windows

__all__ = ["WholePassages", "Window", "WindowCounts", "Windows", "make_windows"]
