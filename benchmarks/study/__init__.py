"""Does comparing help? Arms, controls and tasks of the study; see `protocol.md` beside this file.

python -m benchmarks.study prepare --data ../shared/data --cache ~/.cache/cmp_rerank/study
python -m benchmarks.study run sentence-selection --workers 2
python -m benchmarks.study table sentence-selection
"""
