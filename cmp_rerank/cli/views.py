"""`cmp-rerank views`: what remains of one example after each step of an ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cmp_rerank.text.segmenters import Segmenter


def views(
    query: Annotated[str, typer.Option(help="The query. It is never cropped.")],
    doc: Annotated[str, typer.Option(help="The text of the document.")],
    model: Annotated[
        str, typer.Option(help="A cross-encoder whose tokens and window are used; by default each word is a token.")
    ] = "",
    crops: Annotated[int, typer.Option(min=0, help="Number of CmpCrop steps.")] = 1,
    drops: Annotated[int, typer.Option(min=0, help="Number of CmpDrop steps.")] = 1,
    p: Annotated[float, typer.Option(help="Rate of one CmpDrop step.")] = 0.1,
    segments: Annotated[
        str, typer.Option(help="sentences[:LANGUAGE], paragraphs, words:SIZE[:STRIDE] or tokens:SIZE[:STRIDE].")
    ] = "sentences",
    best: Annotated[
        int, typer.Option(min=0, help="Number of best matching segments that are the support; 0: none.")
    ] = 1,
    relevant: Annotated[bool, typer.Option(help="Whether the document is relevant, and so has support.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 0,
) -> None:
    """Print what remains of one example after each step of CmpCrop and CmpDrop.

    Crops and drops alternate, beginning with a crop. In a terminal, support is green and cropped text is struck out.
    """
    from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan, alternate
    from cmp_rerank.models.show import show_views
    from cmp_rerank.text.support import LexicalSupport

    crop = CmpCrop(segmenter=_segmenter(segments), support=LexicalSupport() if best else None, best=max(best, 1))
    plan = Plan(alternate(crops, drops, crop, CmpDrop(p=p)))
    loaded = None
    if model:
        from cmp_rerank.reranking.loading import load_reranker

        loaded = load_reranker(model, long_documents=False)
    show_views(plan, query, doc, model=loaded, relevant=relevant, seed=seed)


def _segmenter(name: str) -> Segmenter:
    from cmp_rerank.text.segmenters import Paragraphs, Sentences, TokenWindows, WordWindows

    kind, *rest = name.split(":")
    try:
        if kind == "sentences" and len(rest) <= 1:
            return Sentences(*rest)
        if kind == "paragraphs" and not rest:
            return Paragraphs()
        if kind in ("words", "tokens") and 1 <= len(rest) <= 2:
            numbers = [int(number) for number in rest]
            return WordWindows(*numbers) if kind == "words" else TokenWindows(*numbers)
    except ValueError as error:
        raise ValueError(f"--segments {name}: {error}") from None
    raise ValueError(
        f"--segments must be sentences[:LANGUAGE], paragraphs, words:SIZE[:STRIDE] or tokens:SIZE[:STRIDE]; got "
        f"{name!r}."
    )
