"""Collections: one interface to corpus, queries, judgments, splits and runs of any source."""
