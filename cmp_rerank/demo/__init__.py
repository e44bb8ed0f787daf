"""The main job: fine-tune one encoder as a reranker twice, plainly and comparatively, and measure both.

`docstrings` builds its collection of real text, `extracts` shortens documents, `job` runs all stages.
"""
