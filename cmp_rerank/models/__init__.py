"""Kinds of models: how each is fed, run and read."""
