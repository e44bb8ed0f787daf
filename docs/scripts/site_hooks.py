"""What the site does besides mkdocs: it adds the API reference, and files of the repository that pages link to.

Pages link to results, examples and scripts by relative paths, which work in a clone. The site has no clone around it,
so each linked file is copied to ``repository/``, and the link leads there.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import entries, pages

FOLDER = "repository"
_REMOTE_SHIM = "https://unpkg.com/iframe-worker/shim"
_SHIM = "scripts/frame_worker.js"
#: The page whose tables name what `import cmp_rerank` gives.
_NAMES = "api.md"
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def outside(page: str, target: str) -> str | None:
    """The path from the root of the repository, if a link of a page leads out of ``docs``; else None.

    Args:
        page: path of the page, from ``docs``.
        target: as the page has it, relative.

    Example:
        >>> outside("how-to/lora.md", "../../examples/lora.py")
        'examples/lora.py'
        >>> outside("how-to/lora.md", "../engine.md") is None
        True
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path == "docs" or path.startswith("docs/") else path


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the reference, and the files that pages link to, wherever they are in the repository."""
    root = Path(config.config_file_path).parent
    for path, text in pages(root).items():
        files.append(File.generated(config, path, content=text))
    for page in list(files.documentation_pages()):
        for _, target, _ in _LINK.findall(page.content_string):
            path = outside(page.src_uri, target)
            if path is None or files.get_file_from_path(f"{FOLDER}/{path}"):
                continue
            if not (root / path).is_file():
                raise PluginError(f"{page.src_uri} links to {target}, which is no file of the repository")
            # A page in markdown would be built as one; here it is shown as it is.
            name = path + ".txt" if path.endswith((".md", ".py", ".yaml", ".jsonl")) else path
            if files.get_file_from_path(f"{FOLDER}/{name}") is None:
                text = (root / path).read_text(encoding="utf-8")
                files.append(File.generated(config, f"{FOLDER}/{name}", content=text))
    return files


def with_reference(markdown: str, root: Path) -> str:
    """Let names in the first column of tables lead to their place in the API reference.

    Example:
        >>> print(with_reference("| `Plan`, `RDrop` | of `Plan` |", Path()))
        | [`Plan`](reference/ablations.md#plan), [`RDrop`](reference/objectives.md#rdrop) | of `Plan` |
    """
    for package, name, _, shown in entries(root):
        if shown == "cmp_rerank":
            link = f"[`{name}`](reference/{package}.md#{name.lower()})"
            markdown = re.sub(rf"^(\|[^|\n]*)`{name}`", lambda cell, link=link: cell[1] + link, markdown, flags=re.M)
    return markdown


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Let links out of ``docs`` lead to the copies, and public names to the reference."""
    if page.file.src_uri == _NAMES:
        markdown = with_reference(markdown, Path(config.config_file_path).parent)

    def replaced(match: re.Match[str]) -> str:
        path = outside(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        copy = next(name for name in (path, path + ".txt") if files.get_file_from_path(f"{FOLDER}/{name}"))
        here = posixpath.dirname(page.file.src_uri) or "."
        return f"{match[1]}{os.path.relpath(f'{FOLDER}/{copy}', here)}{match[3]}"

    return _LINK.sub(replaced, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Take the search's stand-in for a worker, which browsers refuse to pages on disk, from the site itself."""
    here = posixpath.dirname(page.file.src_uri) or "."
    return output.replace(_REMOTE_SHIM, os.path.relpath(_SHIM, here))
