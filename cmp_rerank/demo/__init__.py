"""The main job: fine-tune one encoder as a reranker twice, plainly and comparatively, and measure both.

`docstrings` makes the collection of real text that it works on, `job` runs it.
"""
