"""What sentence-transformers mines and what we mine can be used alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optional_libraries import datasets
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import losses
from sentence_transformers.util import mine_hard_negatives
from test_formats import CORPUS, QRELS, TEXTS, train

from cmp_rerank.ir import Dense
from cmp_rerank.mining import mine

FORMATS = {"pairs": "labeled-pair", "tuples": "n-tuple", "lists": "labeled-list"}
LOSSES = {
    "pairs": losses.BinaryCrossEntropyLoss,
    "tuples": losses.MultipleNegativesRankingLoss,
    "lists": losses.LambdaLoss,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    import tiny_models
    from sentence_transformers.sentence_transformer import modules

    folder = tiny_models.save_checkpoint(
        tmp_path_factory.mktemp("encoder"), tiny_models.bert_config(), tiny_models.wordpiece()
    )
    transformer = modules.Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, modules.Pooling(32)], device="cpu")


@pytest.mark.parametrize("form", list(FORMATS))
def test_the_same_negatives_in_the_same_columns(
    form: Any, encoder: SentenceTransformer, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    pairs = datasets.Dataset.from_dict(
        {"query": list(TEXTS.values()), "document": [CORPUS[next(iter(judged))] for judged in QRELS.values()]}
    )
    theirs = mine_hard_negatives(
        pairs,
        encoder,
        corpus=list(CORPUS.values()),
        num_negatives=2,
        output_format=FORMATS[form],
        verbose=False,  # type: ignore[arg-type]
    )
    ours = mine(
        TEXTS, CORPUS, QRELS, Dense(CORPUS, encoder).search(TEXTS, 5), format=form, negatives=2, pick="top"
    ).dataset
    theirs = theirs.rename_columns(dict(zip(theirs.column_names, ours.column_names, strict=True)))
    rows: list[list[Any]] = [sorted(data.to_list(), key=repr) for data in (theirs, ours)]  # type: ignore[attr-defined]
    if form == "lists":  # ours are sorted by label, and stable: the same order
        assert [row["docs"] for row in rows[0]] == [row["docs"] for row in rows[1]]
    assert rows[0] == rows[1]
    both = datasets.concatenate_datasets([theirs.cast(ours.features), ours])
    assert train(tiny_model, both, LOSSES[form](tiny_model), tmp_path) > 0
