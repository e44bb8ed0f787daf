"""Checkpoints that are written whole: marked when they are on the disk, and resumed from only then."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from cmp_rerank.ir.lines import PathLike, write_lines

logger = logging.getLogger(__name__)

#: In a checkpoint: the sizes of its files, written when all of them are on the disk.
MARK = "complete.json"
#: In a checkpoint: it is being saved.
SAVING = ".saving"
#: The file that ``Trainer`` writes last.
STATE = "trainer_state.json"


def mark_complete(folder: PathLike) -> None:
    """Sync a checkpoint to the disk, and then mark it, so that what is marked outlives a power failure.

    Args:
        folder: Of the checkpoint, with all its files.

    Raises:
        OSError: The disk does not take it; the checkpoint is then not marked.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "weights").write_text("1 2 3")
        ...     before = is_complete(folder)
        ...     mark_complete(folder)
        ...     after = is_complete(folder)
        ...     _ = Path(folder, "weights").write_text("1 2")  # cut off
        ...     before, after, is_complete(folder)
        (False, True, False)
    """
    path = Path(folder)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in (MARK, SAVING))
    for each in (*files, *{file.parent for file in files}):
        _sync(each)
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    write_lines(path / MARK, [json.dumps({"files": sizes}, indent=1), "\n"])
    (path / SAVING).unlink(missing_ok=True)
    for each in (path / MARK, path, path.parent):
        _sync(each)


def is_complete(folder: PathLike) -> bool:
    """Whether a checkpoint is marked as complete, and its files are still as long as they were then."""
    path = Path(folder)
    try:
        sizes = json.loads((path / MARK).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def last_checkpoint(folder: PathLike) -> Path | None:
    """The complete checkpoint with the most steps in the output folder of a trainer; others are warned of.

    Args:
        folder: The output folder of a `RerankerTrainer` or `ComparativeTrainer`.

    Returns:
        The folder of the checkpoint; None without any.
    """
    complete: dict[int, Path] = {}
    for steps, path in _checkpoints(folder):
        if is_complete(path) and (path / STATE).exists():
            complete[steps] = path
        else:
            logger.warning(
                "%s is left out: it is not marked as complete. Its saving was interrupted, it was changed, or "
                "something else saved it",
                path,
            )
    return complete[max(complete)] if complete else None


def remove_unfinished(folder: PathLike, named: PathLike | None = None) -> None:
    """Remove the checkpoints whose saving was interrupted from the output folder of a trainer.

    Args:
        folder: The output folder.
        named: The checkpoint that is resumed from; it stays, as those do that are whole.
    """
    for _, path in _checkpoints(folder):
        if not (path / SAVING).exists():
            continue
        if is_complete(path):
            (path / SAVING).unlink()
        elif named is None or path.resolve() != Path(named).resolve():
            shutil.rmtree(path)


def remove_superseded(resumed: Path, args: TrainingArguments) -> None:
    """Remove what was to go when the newest checkpoint was complete; a kill came between.

    Where it is not marked as complete nothing goes: it may be of no use, and an older one is needed then.
    """
    folder = Path(str(args.output_dir))
    state = resumed / STATE
    newest = [path for _, path in sorted(_checkpoints(folder))][-1:]
    if is_complete(resumed) and state.is_file() and [path.resolve() for path in newest] == [resumed.resolve()]:
        best = TrainerState.load_from_json(str(state)).best_model_checkpoint
        rotate_checkpoints(str(folder), args.save_total_limit, best)


def _checkpoints(folder: PathLike) -> Iterator[tuple[int, Path]]:
    """Steps and folder of each checkpoint, whether it is complete or not."""
    for path in sorted(Path(folder).glob("checkpoint-*")):
        if (steps := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir():
            yield int(steps[1]), path


def _with_state(folder: PathLike) -> Path | None:
    """The checkpoint with the most steps that has the file which is written last, and can be read."""
    for _, path in sorted(_checkpoints(folder), reverse=True):
        try:
            TrainerState.load_from_json(str(path / STATE))
        except (OSError, ValueError, TypeError):
            continue
        return path
    return None


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class CompleteCheckpoints(Trainer):
    """Base of trainers, before any other: a kill at any moment costs the steps since the last checkpoint, no more.

    A checkpoint is synced to the disk and marked before older ones are removed. ``resume_from_checkpoint=True`` takes
    the last complete one, and a training that has done all its steps does none when it is resumed.
    """

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as ``Trainer`` does.

        Args:
            resume_from_checkpoint: True: from the last complete checkpoint in the output folder; a folder: from it,
                marked as complete or not, and it is not removed. Others whose saving was interrupted are.
            *args: As for ``Trainer``.
            **kwargs: As for ``Trainer``.

        Returns:
            What ``Trainer`` does.

        Raises:
            ValueError: There is no complete checkpoint to resume from.
        """
        if resume_from_checkpoint is True:
            found = last_checkpoint(str(self.args.output_dir))
            if found is None:
                tried = _with_state(str(self.args.output_dir))
                hint = "" if tried is None else f", or try resume_from_checkpoint={str(tried)!r}, which may be whole"
                raise ValueError(
                    f"resume_from_checkpoint=True needs a complete checkpoint; got none in {self.args.output_dir}; "
                    f"train from the start without it{hint}"
                )
            resume_from_checkpoint = str(found)
        if self.args.should_save:
            remove_unfinished(str(self.args.output_dir), resume_from_checkpoint or None)
            if resume_from_checkpoint:
                remove_superseded(Path(resume_from_checkpoint), self.args)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run_epoch(self, model: Any, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        """Nothing where all steps are done: ``Trainer`` takes one more before it looks.

        All that draws batches is told the epoch, before some are skipped. Not all versions reach below a wrapper.
        """
        if self.state.global_step >= self.state.max_steps:
            return
        part = train_dataloader
        while part is not None:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
            part = getattr(part, "batch_sampler", None)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        """The last file that each process writes; the first one goes on when all have."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Mark the checkpoint when its last file, its state, is written; older ones are removed after that."""
        state, write = self.state, self.state.save_to_json

        def save_to_json(path: str) -> None:
            write(path)
            mark_complete(Path(path).parent)

        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SAVING).touch()
            (folder / MARK).unlink(missing_ok=True)
        state.save_to_json = save_to_json  # type: ignore[method-assign]
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del state.save_to_json
