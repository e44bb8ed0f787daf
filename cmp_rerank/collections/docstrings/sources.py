"""Docstrings of installed packages, read from their sources without importing them.

Importing a package runs it: that is slow, prints, may fail, and shows one object under many names. Parsing shows
every definition once, where it stands, the same on every machine that has the same versions.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STDLIB = "stdlib"

# Folders and files that document nothing that a user would search for, by name anywhere under a package.
_SKIPPED = re.compile(
    r"(^|/)(tests?|testing|test_[^/]*|conftest|_vendor|vendored?|_pytest|site-packages|dist-packages|idlelib|lib2to3"
    r"|turtledemo|ensurepip|pydoc_data|encodings|_inductor|_dynamo|_functorch|_numpy|_export|_pyrepl|externals?"
    r"|array_api_compat|array_api_extra|config-[^/]*|modular_[^/]*|__pycache__)(/|\.py$|$)"
)
# numpy.add_newdoc(place, name, doc), scipy.special's add_newdoc(name, doc) and torch's add_docstr(object, doc) carry
# the docstrings of what is written in C.
_ADDERS = {"add_newdoc", "add_docstr", "_add_docstr"}
_WITH_BODY = (ast.If, ast.Try, ast.With)
_PLACEHOLDER = re.compile(r"\{\w*\}")


@dataclass(frozen=True)
class Docstring:
    """One docstring: the dotted name of its object, its top-level object, and its cleaned-up text."""

    name: str
    owner: str
    text: str


def package_root(package: str) -> Path:
    """The folder with the sources of ``package`` (``"stdlib"``: of the standard library).

    Raises:
        ValueError: the package is not installed, or it is a single module.
    """
    if package == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"package {package!r} is not installed (or is no package): install it or leave it out of packages."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def package_version(package: str) -> str:
    """The installed version of the distribution that holds ``package``."""
    if package == STDLIB or package in sys.stdlib_module_names:
        return platform.python_version()
    distribution = {"sklearn": "scikit-learn"}.get(package, package)
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def package_docstrings(package: str) -> Iterator[Docstring]:
    """Every docstring of ``package``, in the order of paths and of lines; nothing is imported.

    Files that do not parse are passed over (packages ship templates and code for other Python versions).
    """
    root = package_root(package)
    prefix = "" if package == STDLIB else package
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        relative = path.relative_to(root).as_posix()
        if _SKIPPED.search(relative):
            continue
        source = path.read_bytes()
        if source.count(b'"""') + source.count(b"'''") < 2:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        parts = [prefix, *relative.removesuffix(".py").split("/")]
        module = ".".join(part for part in parts if part and part != "__init__")
        yield from _module_docstrings(tree, module)


def _module_docstrings(tree: ast.Module, module: str) -> Iterator[Docstring]:
    text = ast.get_docstring(tree)
    if text:
        yield Docstring(module, module.rsplit(".", 1)[-1], text)
    yield from _body_docstrings(tree.body, module, owner=None)


def _body_docstrings(body: list[ast.stmt], scope: str, owner: str | None) -> Iterator[Docstring]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield Docstring(f"{scope}.{node.name}", owner or node.name, text)
            if isinstance(node, ast.ClassDef):  # what stands inside a function is nobody's public object
                yield from _body_docstrings(node.body, f"{scope}.{node.name}", owner or node.name)
        elif isinstance(node, _WITH_BODY):
            yield from _body_docstrings(node.body, scope, owner)
        elif owner is None and isinstance(node, (ast.Expr, ast.Assign)) and isinstance(node.value, ast.Call):
            added = _added_docstring(node.value)
            if added:
                name, text = added
                yield Docstring(f"{scope}.{name}", name.split(".")[0], text)


def _added_docstring(call: ast.Call) -> tuple[str, str] | None:
    """The name and the text of an ``add_newdoc`` or ``add_docstr`` call; None for any other call."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if function not in _ADDERS or len(call.args) < 2:
        return None
    *target, doc = call.args
    names = [ast.unparse(part) if not isinstance(part, ast.Constant) else str(part.value) for part in target]
    if isinstance(doc, ast.Tuple) and len(doc.elts) == 2:  # add_newdoc(place, class, (method, doc))
        names.append(str(getattr(doc.elts[0], "value", "")))
        doc = doc.elts[1]
        name = ".".join(names[-2:])
    else:
        name = names[-1].rsplit(".", 1)[-1]
    text = _string(doc)
    return (name, inspect.cleandoc(text)) if text and name else None


def _string(node: ast.expr) -> str | None:
    """The text of a string expression made of literals, ``+`` and ``.format(...)``, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _string(node.left), _string(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = _string(node.func.value)
        # What would be put in is boilerplate that many objects share.
        return None if text is None else _PLACEHOLDER.sub("", text).replace("{{", "{").replace("}}", "}")
    return None
