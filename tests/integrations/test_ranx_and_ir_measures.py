"""Runs and judgments of ranx and ir_measures: dictionaries of dictionaries both ways, and the same figures."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import pytest
from ir_measures import AP, RR, nDCG

from cmp_rerank import evaluate
from cmp_rerank.ir import read_qrels, read_run, write_qrels, write_run

RUN = {"q1": {"a": 3.0, "b": 2.0, "c": 1.5}, "q2": {"b": 1.0, "c": 0.5, "d": 0.25}}
QRELS = {"q1": {"b": 1, "c": 2}, "q2": {"d": 1, "a": 0}}
MEASURES = ["nDCG@10", "AP", "RR@10"]


def test_ir_measures_reads_our_files_and_gives_our_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "a.trec", RUN)
    write_qrels(tmp_path / "a.qrels", QRELS)
    theirs = ir_measures.calc_aggregate(
        [nDCG @ 10, AP, RR @ 10],
        ir_measures.read_trec_qrels(str(tmp_path / "a.qrels")),
        ir_measures.read_trec_run(str(tmp_path / "a.trec")),
    )
    ours = evaluate(RUN, QRELS, MEASURES)
    assert {str(measure): value for measure, value in theirs.items()} == {
        name: pytest.approx(ours[name]) for name in MEASURES
    }


def test_objects_of_ir_measures_as_ours(tmp_path: Path) -> None:
    write_run(tmp_path / "a.trec", RUN)
    write_qrels(tmp_path / "a.qrels", QRELS)
    run = ir_measures.util.RunConverter(ir_measures.read_trec_run(str(tmp_path / "a.trec"))).as_dict_of_dict()
    qrels = ir_measures.util.QrelsConverter(ir_measures.read_trec_qrels(str(tmp_path / "a.qrels"))).as_dict_of_dict()
    assert run == RUN
    assert qrels == QRELS
    assert evaluate(run, qrels, [nDCG @ 10])["nDCG@10"] == evaluate(RUN, QRELS, ["nDCG@10"])["nDCG@10"]


@pytest.mark.slow  # its functions are compiled on first use, for a minute
def test_ranx_both_ways(tmp_path: Path) -> None:
    ranx = pytest.importorskip("ranx", reason="needs ranx")
    run, qrels = ranx.Run(RUN, name="ours"), ranx.Qrels(QRELS)
    assert run.to_dict() == RUN
    assert qrels.to_dict() == QRELS
    run.save(str(tmp_path / "run.trec"), kind="trec")
    qrels.save(str(tmp_path / "qrels.trec"), kind="trec")
    assert read_run(tmp_path / "run.trec") == RUN
    assert read_qrels(tmp_path / "qrels.trec") == QRELS
    write_run(tmp_path / "ours.trec", RUN)
    assert ranx.Run.from_file(str(tmp_path / "ours.trec"), kind="trec").to_dict() == RUN
    theirs = ranx.evaluate(qrels, run, ["ndcg@10", "map", "mrr@10"])
    ours = evaluate(run.to_dict(), qrels.to_dict(), MEASURES)
    # ranx' "ndcg" has the gains of trec_eval.
    assert list(theirs.values()) == pytest.approx([ours[name] for name in MEASURES])
