"""Losses for the sentence-transformers trainers."""
