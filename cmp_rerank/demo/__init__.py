"""The main job: from a corpus to a guarded reranker, trained plainly and comparatively, and both compared.

`recipe` has the two configurations, which differ in their ablations only; `job` runs them through
`cmp_rerank.pipeline`, compares, and writes one page.
"""
