"""Measures, comparison of systems with significance, reports."""
