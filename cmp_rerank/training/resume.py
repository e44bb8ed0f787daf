"""Resume a training with the settings and the weights that it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json
from cmp_rerank.ir.settings import in_words


def check_settings(path: PathLike, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Write the settings of a new training; compare those of a resumed one with what was written.

    The number of steps is a setting like any other. The learning rate falls to 0 at the last step, so that a training
    with more steps is another training.

    Args:
        path: The file of the settings.
        settings: What the training depends on, as JSON has it.
        resume: Whether the training is resumed from a checkpoint.

    Raises:
        ValueError: A setting differs from the one that the training was started with, or the file is missing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     check_settings(f"{folder}/settings.json", {"rate": 3e-5}, resume=False)
        ...     check_settings(f"{folder}/settings.json", {"rate": 3e-5}, resume=True)
    """
    if not resume:
        with replacing(path) as file:
            json.dump(settings, file, indent=1)
            file.write("\n")
        return
    if changed := changes(path, settings):
        raise ValueError(
            f"{path}: this training was started with other settings ({'; '.join(changed)}); resume it with the same "
            "ones, or choose another folder"
        )


def changes(path: PathLike, settings: Mapping[str, Any]) -> list[str]:
    """What differs between the settings in a file and others, in words.

    Args:
        path: The file of the settings.
        settings: What the training depends on now, as JSON has it.

    Raises:
        ValueError: The file is missing or damaged.
    """
    return in_words(read_json(path), json.loads(json.dumps(settings)))


def weights_digest(model: str) -> str:
    """A digest of the weights of a checkpoint: two checkpoints of one name may differ.

    Args:
        model: A folder, or a name on the hub.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: There are no weights.
    """
    from transformers.utils import cached_file

    config = cached_file(model, "config.json")
    folder = Path(model) if config is None else Path(config).parent
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(
            f"{model} must be a checkpoint with weights (*.safetensors or pytorch_model*.bin); got none in {folder}"
        )
    digest = hashlib.blake2b(digest_size=8)
    for each in files:
        with each.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()
