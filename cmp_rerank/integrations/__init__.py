"""Rerankers and readers as components of search stacks: one file for each library, which it imports.

Where a library loads a checkpoint itself, there is nothing here for it: what is trained is an ordinary checkpoint.
These are for what a plain loader does not see: documents beyond the window, the share of the score that the guard has
chosen, and readers.
"""
