"""Every Python block of the README and the docs runs, and every public name is explained there."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import cmp_rerank

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# What a block needs beside the test extras, where that is missing, is said in a comment before it.
BLOCK = re.compile(r"^(?:<!-- needs ([\w.]+) -->\n)?( *)```python\n(.*?)^\2```", re.MULTILINE | re.DOTALL)
# What readers load from the hub is a small local model here.
HUB_NAME = re.compile(r'"(?:cross-encoder|sentence-transformers|BAAI|answerdotai|microsoft)/[\w.\-]+"')


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("__docs__")
    monkeypatch.setitem(sys.modules, "__docs__", module)  # dataclasses look up the module that they are defined in
    namespace = vars(module)
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[1] and not installed(match[1]):
            continue
        line = text[: match.start(3)].count("\n")
        code = HUB_NAME.sub(repr(str(tiny_checkpoint)), textwrap.dedent(match[3]))
        # The line numbers of a traceback are those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_public_names_are_explained() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in cmp_rerank.__all__ if f"`{name}" not in text]
    assert not missing


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_extras_that_pages_and_messages_name_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([\w-]+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE))
    named = set()
    for path in [*PAGES, *(ROOT / "cmp_rerank").rglob("*.py")]:
        for given in re.findall(r"pip install '?\"?(?:cmp-rerank|\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            named |= set(given.split(","))
    assert named
    assert named <= extras
