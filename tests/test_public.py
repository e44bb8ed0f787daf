"""The public surface: every name is there, imported on first use, with a signature that an editor can show."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmp_rerank

HEAVY = ("torch", "transformers", "sentence_transformers", "datasets", "scipy")
WITHOUT_A_MODEL = [
    "GivenSegments", "GivenSupport", "LexicalSupport", "Paragraphs", "Sentences", "TokenWindows", "WordWindows",
    "__version__", "compare", "evaluate",
]  # fmt: skip


def declared() -> Iterator[tuple[str, str]]:
    """(name, module) of each import under TYPE_CHECKING."""
    assert cmp_rerank.__file__ is not None
    tree = ast.parse(Path(cmp_rerank.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in ast.walk(blocks[0]):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, str(node.module)) for alias in node.names)


def test_declared_and_lazy_names_agree() -> None:
    assert dict(declared()) == cmp_rerank._HOME
    assert sorted(name for name, _ in declared()) == sorted(cmp_rerank.__all__)
    assert len(set(cmp_rerank.__all__)) == len(cmp_rerank.__all__)


@pytest.mark.parametrize("name", cmp_rerank.__all__)
def test_every_name_imports(name: str) -> None:
    value = getattr(cmp_rerank, name)
    assert value.__name__ == name
    assert value.__module__.startswith("cmp_rerank.")
    assert value is getattr(importlib.import_module(cmp_rerank._HOME[name]), name)


def test_dir_and_star_give_the_public_names() -> None:
    assert {*cmp_rerank.__all__, "__version__"} <= set(dir(cmp_rerank))
    found: dict[str, object] = {}
    exec("from cmp_rerank import *", found)
    assert set(cmp_rerank.__all__) <= set(found)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cmp_rerank' has no attribute 'CmpBlur'"):
        cmp_rerank.CmpBlur  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'CmpBlur'"):
        exec("from cmp_rerank import CmpBlur", {})


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cmp_rerank.__version__ == importlib.metadata.version("cmp-rerank")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.delitem(vars(cmp_rerank), "__version__")  # it is looked up once
    assert cmp_rerank.__version__ == "0+unknown"
    monkeypatch.delitem(vars(cmp_rerank), "__version__")


@pytest.mark.parametrize("names", [[], WITHOUT_A_MODEL], ids=["package", "names"])
def test_what_needs_no_model_starts_without_torch(names: list[str]) -> None:
    assert set(names) <= {*cmp_rerank.__all__, "__version__"}
    code = f"""
import sys
import cmp_rerank
for name in {names!r}:
    getattr(cmp_rerank, name)
dir(cmp_rerank)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_first_use_does_import_torch() -> None:
    """The canary: the test above would notice."""
    code = "import sys, cmp_rerank; cmp_rerank.CmpDrop; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", cmp_rerank.__all__)
def test_signatures_are_written_out(name: str) -> None:
    value = getattr(cmp_rerank, name)
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in inspect.signature(value).parameters.values():
        assert parameter.kind not in open_ended, f"{name}({parameter})"
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter})"


def test_compare_has_the_options_of_evaluate() -> None:
    evaluate, compare = (inspect.signature(f).parameters for f in (cmp_rerank.evaluate, cmp_rerank.compare))
    options = {name: p for name, p in evaluate.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert len(options) == 9
    assert {name: compare[name] for name in options} == options


def test_the_package_says_that_it_is_typed() -> None:
    assert cmp_rerank.__file__ is not None
    assert (Path(cmp_rerank.__file__).parent / "py.typed").exists()
