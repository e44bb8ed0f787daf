"""The main job: fine-tune one encoder as a reranker twice, plainly and comparatively, and measure both."""

from cmp_rerank.demo.config import DemoConfig
from cmp_rerank.demo.job import BOTH, COMPARATIVE, FIRST_STAGE, MEASURES, PLAIN, START, SYSTEMS, run_demo

__all__ = ["BOTH", "COMPARATIVE", "FIRST_STAGE", "MEASURES", "PLAIN", "START", "SYSTEMS", "DemoConfig", "run_demo"]
