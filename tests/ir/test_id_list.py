"""Ids in a few bytes each, against a list."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.ir.id_list import IdList

IDS = st.lists(st.text(max_size=4), min_size=1, max_size=8)


@settings(max_examples=40)
@given(IDS, IDS)
def test_it_is_a_list(ids: list[str], others: list[str]) -> None:
    listed = IdList.of(ids)
    assert len(listed) == len(ids)
    assert list(listed) == ids
    assert [listed[i] for i in range(-len(ids), len(ids))] == [ids[i] for i in range(-len(ids), len(ids))]
    assert listed[1:] == ids[1:]
    assert listed[::-2] == ids[::-2]
    assert list(IdList.joined([listed, IdList.of(others)])) == ids + others
    assert (listed == IdList.of(others)) == (ids == others)


def test_it_is_the_same_from_its_files(tmp_path: Path) -> None:
    ids = ["d1", "", "文書", "\ud800"]
    IdList.of(ids).save(tmp_path)
    assert list(IdList.open(tmp_path)) == ids
