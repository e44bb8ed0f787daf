"""From a corpus to a reranker that is never worse: retrieve, mine, train, guard, report."""
