"""What the protocol has run: tasks and sizes with their arms, first those that say most for their cost."""

from __future__ import annotations

#: The arms of the main sizes of the small tasks.
CORE = (
    "plain",
    "plain, dropout 0.1",
    "plain, 3x epochs",
    "plain, averaged weights",
    "mean, c=2",
    "compared, c=2",
    "compared, c=2, full",
    "full + hinges, c=2",
    "R-Drop, dropout 0.1",
)

#: Those that go on to other sizes and tasks.
SURVIVING = ("plain", "plain, 3x epochs", "mean, c=2", "compared, c=2")

#: Where the support of a label is known. There, on validation, ablated passes are above plain training, so that
#: ordinary dropout may be, too.
CROPPED = (*SURVIVING, "mean, crop", "compared, crop", "plain, dropout 0.1")

#: Where support can be guessed, too. Twice the epochs are the compute of one crop.
SUPPORTED = (*CROPPED, "compared, crop, support guessed", "plain, 2x epochs")

#: Of readers, whose label is a place in the text, so that support is always known; dropout with as many passes, too.
REGULARISED = (*CROPPED, "plain, dropout 0.1, 3x epochs")

#: Variants of comparing that are screened on validation, and what averages their passes. For three steps, and for the
#: top layer, there is no such run.
VARIANTS = {
    "compared, c=2": "mean, c=2",
    "compared, c=1": "mean, c=1",
    "compared, c=3": "",
    "compared, c=2, p=0.02": "mean, c=2, p=0.02",
    "compared, c=2, p=0.3": "mean, c=2, p=0.3",
    "compared, c=2, top:1": "",
    "compared, c=2, best": "mean, c=2",
}

#: All of these arms; those that are tuned have their runs.
SCREENED = tuple(dict.fromkeys(filter(None, [*VARIANTS, *VARIANTS.values()])))

#: And with the compute of one crop; and a crop with the compute of plain training.
EQUAL = (*REGULARISED, "half cropped", "plain, dropout 0.1, 2x epochs", "plain, 2x epochs")

#: Of rerankers on real collections, where support can only be guessed: one crop, and what it is compared with.
GUESSED = ("plain", "plain, 2x epochs", "mean, crop", "compared, crop", "plain, dropout 0.1")

PLAN: dict[tuple[str, int], tuple[str, ...]] = {
    ("sst2", 100): CORE,
    ("sst2-noise", 100): CORE,
    ("sentence-selection", 500): CORE,
    ("sst2", 500): CORE,
    ("sst2-noise", 500): CORE,
    ("rte", 500): CORE,
    ("scifact-distilled", 50): GUESSED,
    ("cranfield-distilled", 50): GUESSED,
    ("passages", 200): SUPPORTED,
    ("reading", 400): EQUAL,
    ("scifact-distilled", 200): GUESSED,
    ("passages", 1000): SUPPORTED,
    ("reading", 2500): REGULARISED,
    ("scifact-distilled", 500): GUESSED,
    ("cranfield-distilled", 100): GUESSED,
    ("sst2", 2500): SURVIVING,
    ("sentence-selection", 100): SURVIVING,
    ("sentence-selection", 2000): SURVIVING,
    ("reading", 8000): SURVIVING,
}

#: Run in part, and ended: their start is below BM25, see the protocol.
ENDED = (("cranfield", 50), ("scifact", 50))
