"""What is handed over, on disk: an ordinary checkpoint, and beside it ``guard.json`` with the share of the score."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmp_rerank.guard.card import add_verdict
from cmp_rerank.guard.mix import Mix
from cmp_rerank.ir import Run
from cmp_rerank.ir.abandoned import sole_writer
from cmp_rerank.ir.arguments import Progress
from cmp_rerank.ir.file_marks import changed_file, mark_of
from cmp_rerank.ir.lines import PathLike, check_parent, replacing, unfinished_folder
from cmp_rerank.reranking import rerank_run
from cmp_rerank.version import package_version

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from cmp_rerank.guard.verdict import Verdict

FILE = "guard.json"


@dataclass(frozen=True)
class Guarded:
    """A reranker as the guard has handed it over: a model, and how its scores are joined with the first stage.

    Attributes:
        model: The model; an ordinary CrossEncoder.
        mix: What share of the score it has.
        batch_size: Passed to ``predict``.
        measure: The measure of the choice.
        validation: Its mean on the validation split.

    Example:
        ::

            guarded = load_guard("my-run/guard/model")
            print(guarded.mix)  # what share of the score the model has
            run = guarded.rerank(queries, corpus, first_stage)
    """

    model: CrossEncoder
    mix: Mix
    batch_size: int
    measure: str
    validation: float

    def rerank(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        first_stage: Run,
        *,
        progress: Progress | None = None,
    ) -> dict[str, dict[str, float]]:
        """Rank the candidates of a first stage, just as it was done for the choice.

        Args:
            queries: Query id -> text.
            corpus: Document id -> text.
            first_stage: Query id -> document id -> score, from the first stage that the guard saw.
            progress: Called with the number of pairs that are done and of all pairs.

        Returns:
            A run over the same documents.

        Raises:
            ValueError: As :func:`cmp_rerank.reranking.rerank_run`.
        """
        # The first stage alone needs no scores.
        top = self.mix.top(first_stage) if self.mix.weight else {}
        scores = rerank_run(self.model, queries, corpus, top, batch_size=self.batch_size, progress=progress)
        return self.mix(first_stage, scores)


def check_free(folder: PathLike) -> Path:
    """Refuse a folder that holds something already.

    Raises:
        ValueError: It is a file, or holds something; or there is no folder to make it in.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: this exists already and is not an empty folder; choose another, or remove it")
    target = Path(os.path.realpath(path))  # of a symbolic link, the folder that it names
    check_parent(target)
    return target


@contextmanager
def free_folder(folder: PathLike | None) -> Iterator[None]:
    """A folder that holds nothing, and that no other process writes meanwhile; None: there is none.

    Raises:
        ValueError: As :func:`check_free`, or another process is writing it.
    """
    if folder is None:
        yield
        return
    with sole_writer(folder):
        check_free(folder)
        yield


def save(folder: PathLike, model: CrossEncoder, mix: Mix, verdict: Verdict) -> Path:
    """Write the checkpoint, ``guard.json`` and ``verdict.json``; all of them, or nothing. The model card tells why.

    Args:
        folder: The folder, new or empty.
        model: The model that is handed over.
        mix: What share of the score it has.
        verdict: Why.

    Returns:
        The folder.

    Raises:
        ValueError: As :func:`check_free`.
    """
    target = check_free(folder)
    with unfinished_folder(target) as made:
        model.save_pretrained(str(made))
        settings = {
            **asdict(mix),
            "batch_size": verdict.options["batch_size"],
            "measure": verdict.measure,
            "validation": verdict.row(verdict.chosen).mean,
            "chosen": verdict.chosen,
            "version": package_version(),
            "weights": {path.relative_to(made).as_posix(): mark_of(path) for path in made.rglob("*.safetensors")},
        }
        with replacing(made / FILE) as file:
            json.dump(settings, file, indent=1, allow_nan=False)
            file.write("\n")
        verdict.save(made)
        add_verdict(made, mix, verdict)
        made.replace(target)
    return Path(folder)


def load_guard(folder: PathLike, *, model: CrossEncoder | None = None, device: str | None = None) -> Guarded:
    """What the guard has handed over, ready to rerank.

    Args:
        folder: The folder that :func:`cmp_rerank.guard.guard` wrote.
        model: The model, where it is loaded already or in another way, such as in 16 bits; None loads it.
        device: Where the model is loaded; None: a GPU where there is one.

    Returns:
        The model and its share of the score.

    Raises:
        ValueError: There is no ``guard.json`` in the folder, it is damaged, or it is of other weights.

    Example:
        ::

            guarded = load_guard("tuned/guarded")
            run = guarded.rerank(queries, corpus, bm25.search(queries, 100))
    """
    mix, rest = _read(Path(folder) / FILE)
    if model is None:
        from cmp_rerank.reranking.loading import load_reranker

        model = load_reranker(folder, device=device)
    return Guarded(model, mix, **rest)


def read_mix(folder: PathLike) -> Mix | None:
    """How the scores of a checkpoint are joined with the first stage, without loading it.

    Args:
        folder: A folder, or a name on the hub.

    Returns:
        The share of the score; None where there is no ``guard.json``: the guard has said nothing.

    Raises:
        ValueError: The file is damaged, or it is of other weights.
    """
    path = Path(folder) / FILE
    return _read(path)[0] if path.is_file() else None


def _read(path: Path) -> tuple[Mix, dict[str, Any]]:
    """The mix, and what else there is."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the folder that the guard wrote")
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mix = Mix(read["weight"], read["scale"], read["depth"])
        rest = {name: read[name] for name in ("batch_size", "measure", "validation")}
        changed = changed_file(path.parent, read.get("weights", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: this is no file of the guard ({error}); run the guard again") from error
    if changed is not None:  # such as where another model was saved into the folder
        raise ValueError(
            f"{path}: the guard has handed over other weights than those in {changed}; run the guard again, or "
            f"remove {FILE} to use the model alone"
        )
    return mix, rest
