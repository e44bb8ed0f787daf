"""The run folder: each stage is a folder in it, written whole or not at all, with the settings that made it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp_rerank.ir.file_marks import changed_file, marks_of
from cmp_rerank.ir.lines import PathLike, open_bytes, replacing, replacing_folder
from cmp_rerank.ir.reading import read_json

logger = logging.getLogger(__name__)
#: In the folder of a stage: what made it.
RECORD = "stage.json"
#: A model card. What comes later is added to it and no stage depends on it, so it may change after its stage.
CARD = "README.md"


@dataclass(frozen=True)
class Done:
    """A stage that is complete.

    Attributes:
        folder: what it made.
        digest: stands for its settings, and so for all that it was made from.
        seconds: how long it took.
        settings: what it was made with.
    """

    folder: Path
    digest: str
    seconds: float
    settings: Mapping[str, Any]


class RunFolder:
    """A folder of stages.

    A stage is made in a temporary folder beside its own, and renamed when it is complete. So a stage that is there is
    whole, whatever happened. One that was made with other settings is made again, and so is one whose files are not
    as they were written (:func:`cmp_rerank.ir.file_marks.mark_of`), with a warning.

    Args:
        path: the folder; made with the first stage, where it is missing.
        makes: whether this process makes the stages. In a distributed job the first one does, and the others wait
            for what it makes; the folder must be one that all of them see.
        wait: seconds between two looks of a process that waits.

    Example:
        >>> import tempfile
        >>> made = []
        >>> with tempfile.TemporaryDirectory() as path:
        ...     run = RunFolder(path)
        ...     def make(folder):
        ...         made.append(folder.parent == run.path)
        ...         (folder / "result").write_text("3")
        ...     one, same, other = [run.stage("sum", {"numbers": n}, make) for n in ([1, 2], [1, 2], [0, 3])]
        ...     (one.folder / "result").read_text(), made
        ('3', [True, True])
        >>> one.digest == same.digest != other.digest
        True
    """

    def __init__(self, path: PathLike, *, makes: bool = True, wait: float = 0.2) -> None:
        self.path = Path(path).resolve()
        self.makes, self._wait = makes, wait
        self._whole: set[tuple[str, str]] = set()  # names and digests of stages whose files have been looked at

    def done(self, name: str, settings: Mapping[str, Any]) -> Done | None:
        """A complete stage with these settings; None where there is none, or where its files are not as written."""
        folder = self.path / name
        if not (folder / RECORD).is_file():
            return None
        digest = digest_of(settings)
        try:
            record = read_json(folder / RECORD)
            if record["digest"] != digest:
                return None
            found = Done(folder, digest, float(record["seconds"]), record["settings"])
            changed = None if (name, digest) in self._whole else changed_file(folder, record["files"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s: not the record of a stage (%s); the stage is made again", folder / RECORD, error)
            return None
        if changed is not None:
            logger.warning("%s: this file is not as it was written; the stage is made again", folder / changed)
            return None
        self._whole.add((name, digest))
        return found

    def stage(self, name: str, settings: Mapping[str, Any], make: Callable[[Path], object]) -> Done:
        """A complete stage, made where it is missing or was made with other settings.

        Args:
            name: of its folder, below this one; may have several parts.
            settings: all that it depends on, as JSON has it; of stages before it, their digests.
            make: writes the stage into the empty folder that it is given.
        """
        found = self.done(name, settings)
        if found is not None:
            return found
        if not self.makes:
            while found is None:
                time.sleep(self._wait)
                found = self.done(name, settings)
            return found
        begin = time.perf_counter()
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(target) as folder:
            make(folder)
            record = {
                "settings": settings,
                "digest": digest_of(settings),
                "seconds": round(time.perf_counter() - begin, 3),
                "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "files": marks_of(folder, without=(CARD,)),
            }
            write_json(folder / RECORD, record)
        found = self.done(name, settings)
        assert found is not None
        return found

    def stages(self) -> dict[str, dict[str, Any]]:
        """The records of all complete stages by name, in the order in which they were made."""
        records = {path.parent: read_json(path) for path in self.path.rglob(RECORD)}
        for record in records.values():
            record.pop("files", None)
        order = sorted(records, key=lambda folder: (folder / RECORD).stat().st_mtime_ns)
        return {folder.relative_to(self.path).as_posix(): records[folder] for folder in order}


def digest_of(settings: Any) -> str:
    """16 hexadecimal digits that stand for settings.

    Example:
        >>> digest_of({"depth": 10, "kind": "bm25"}) == digest_of({"kind": "bm25", "depth": 10})
        True
    """
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_digest(path: PathLike) -> str:
    """16 hexadecimal digits that stand for the content of a file.

    Raises:
        ValueError: there is no such file.
    """
    digest = hashlib.blake2b(digest_size=8)
    with open_bytes(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def write_json(path: PathLike, content: Any) -> None:
    """Write JSON, whole or not at all; NaN is an error."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
