"""The pages of the API reference: one for each package, with every public name once. Nothing is imported.

What is public is read from ``__all__`` and the imports of each ``__init__.py``. A name that several packages offer
stands on the page of the first of them, and is said to be imported from where it is shortest.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: Packages in the order of their pages, with what each is for.
PACKAGES = {
    "losses": "The comparative loss, and ranking losses over lists; see [losses](../losses.md).",
    "objectives": "What is made of the task losses of the steps; see [objectives](../objectives.md).",
    "ablations": "Crops, drops, plans and views; see [CmpCrop](../cmpcrop.md) and [CmpDrop](../cmpdrop.md).",
    "training": "Trainers and their arguments; see [training](../train.md) and [engine](../engine.md).",
    "models": "Kinds of models, and long documents; see [long documents](../long-documents.md).",
    "engine": "How rows are run; see [engine](../engine.md).",
    "text": "Segmenters and support; see [CmpCrop](../cmpcrop.md).",
    "reader": "Extractive question answering; see [readers](../readers.md).",
    "evaluation": "Measures and comparisons; see [evaluation](../evaluation.md).",
    "ir": "Runs, judgments, texts and first stages; see [first stages](../first-stage.md), [files](../files.md).",
    "collections": "Collections of any layout; see [collections](../collections.md).",
    "mining": "Training data; see [training data](../mining.md).",
    "guard": "What is handed over; see [guard](../guard.md).",
    "reranking": "Runs of any size; see [reranking](../reranking.md).",
    "serving": "Requests over HTTP; see [serving](../serve.md).",
    "pipeline": "The whole way by a configuration; see [training](../train.md).",
}


def public(init: Path) -> dict[str, str]:
    """Public names of a package, with the module that each is imported from.

    Args:
        init: the ``__init__.py``.

    Returns:
        Name -> module, for the names of ``__all__``. A name that is made in the package itself has the package.
    """
    tree = ast.parse(init.read_text(encoding="utf-8"))
    package = ".".join(init.parent.parts[init.parent.parts.index("cmp_rerank") :])
    imported = imports(tree)
    return {name: imported.get(name, package) for name in names_of(tree)}


def imports(tree: ast.Module) -> dict[str, str]:
    """Name -> module, for what is imported by ``from``."""
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def names_of(tree: ast.Module) -> list[str]:
    """The names of ``__all__``, or none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return [str(name) for name in ast.literal_eval(node.value)]  # type: ignore[attr-defined]
    return []


def home(root: Path, name: str, module: str) -> str:
    """The module that defines a name, behind all modules that pass it on."""
    path = root.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    behind = imports(ast.parse(file.read_text(encoding="utf-8"))).get(name, module)
    return module if behind == module else home(root, name, behind)


def entries(root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Each public name once, as (package, name, module that it is defined in, module to import it from).

    Args:
        root: the folder that the package ``cmp_rerank`` is in.
    """
    short = homes(root, "cmp_rerank")
    seen: set[tuple[str, str]] = set()
    for package in PACKAGES:
        path = f"cmp_rerank.{package}"
        offered = homes(root, path)
        below = {name: module for name, module in short.items() if module.startswith(f"{path}.")}
        for name, module in sorted({**offered, **below}.items(), key=lambda item: item[0].casefold()):
            if (name, module) not in seen:
                seen.add((name, module))
                shown = "cmp_rerank" if short.get(name) == module else path if name in offered else module
                yield package, name, module, shown


def homes(root: Path, package: str) -> dict[str, str]:
    """The public names of a package, with the modules that define them."""
    names = public(root.joinpath(*package.split("."), "__init__.py"))
    return {name: home(root, name, module) for name, module in names.items() if not name.startswith("_")}


def pages(root: Path) -> dict[str, str]:
    """The pages of the reference: path from ``docs`` -> markdown with a directive for each name."""
    texts = {package: [f"# cmp_rerank.{package}", what] for package, what in PACKAGES.items()}
    for package, name, module, shown in entries(root):
        texts[package] += [f"## {name}", f"`from {shown} import {name}`", f"::: {module}.{name}"]
    return {f"reference/{package}.md": "\n\n".join(parts) + "\n" for package, parts in texts.items()}
