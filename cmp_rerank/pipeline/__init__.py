"""From a corpus to a reranker that is never worse: retrieve, mine, train, guard, report."""

from cmp_rerank.pipeline.config import Config, load
from cmp_rerank.pipeline.problems import ConfigError
from cmp_rerank.pipeline.run import Results, run
from cmp_rerank.pipeline.template import template

__all__ = ["Config", "ConfigError", "Results", "load", "run", "template"]
