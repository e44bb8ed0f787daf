"""The site: every page is in its navigation, every public name in its reference, and what is made is up to date."""

from __future__ import annotations

import ast
import contextlib
import re
from importlib.metadata import version
from pathlib import Path

import compatibility
import figures
import pytest
import reference
import torch
import yaml
from tiny_models import cross_encoder

import cmp_rerank
from cmp_rerank.losses import LOSSES

ROOT = Path(__file__).parents[2]
PINNED = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))


ENTRIES = list(reference.entries(ROOT))


class Settings(yaml.SafeLoader):
    """YAML as mkdocs has it: tags that name Python objects are not needed here."""


def in_navigation(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [page for one in parts for page in in_navigation(one)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    pages = in_navigation(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)["nav"])
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages) == sorted(written | set(reference.pages(ROOT)))


def test_the_reference_has_every_public_name_once() -> None:
    assert len({(name, module) for _, name, module, _ in ENTRIES}) == len(ENTRIES)
    top = {name: module for _, name, module, shown in ENTRIES if shown == "cmp_rerank"}
    assert set(top) == set(cmp_rerank.__all__)
    for name, module in top.items():
        assert getattr(cmp_rerank, name).__module__ == module


@pytest.mark.parametrize("package", reference.PACKAGES)
def test_every_name_of_the_reference_is_explained_and_shown_in_use(package: str) -> None:
    bare = []
    for _, name, module, _ in (entry for entry in ENTRIES if entry[0] == package):
        path = ROOT.joinpath(*module.split("."))
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        body = ast.parse(source).body
        place = [i for i, node in enumerate(body) if defines(node, name)][-1]  # overloads come first
        if isinstance(body[place], (ast.ClassDef, ast.FunctionDef)):
            shown = "Example:" in (text := ast.get_source_segment(source, body[place]) or "") or ">>>" in text
        else:  # a name of a type, or a constant: the string after it is what the site shows, with its use
            after = body[place + 1].value if isinstance(body[place + 1], ast.Expr) else None
            shown = isinstance(after, ast.Constant) and "``" in str(after.value)
        bare += [] if shown else [name]
    assert not bare


def defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return node.name == name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


@pytest.mark.parametrize("package", reference.PACKAGES)
def test_what_a_package_offers_can_be_imported_as_the_reference_says(package: str) -> None:
    offered = reference.public(ROOT / "cmp_rerank" / package / "__init__.py")
    entries = {(name, module): shown for _, name, module, shown in ENTRIES}
    for name, module in offered.items():
        home = reference.home(ROOT, name, module)
        shown = entries[name, home]
        value = getattr(__import__(shown, fromlist=[name]), name)
        assert value is getattr(__import__(home, fromlist=[name]), name)


def test_packages_with_public_names_have_a_page() -> None:
    inits = {init.parent.name: init for init in (ROOT / "cmp_rerank").glob("*/__init__.py")}
    with_names = {name for name, init in inits.items() if reference.public(init)}
    assert with_names - set(reference.PACKAGES) == {"ranking_losses"}  # its names are those of `losses`
    assert {shown for *_, shown in ENTRIES} >= {"cmp_rerank", "cmp_rerank.losses"}


def test_the_table_of_losses_is_what_is_read_and_measured() -> None:
    page = compatibility.PAGE.read_text(encoding="utf-8")
    made = compatibility.table()
    assert page.partition(compatibility.MARKS[0])[2].partition(compatibility.MARKS[1])[0].strip() == made
    order = sorted(LOSSES, key=lambda name: (LOSSES[name].__module__.startswith("sentence_transformers"), name))
    for part in made.split("\n\n## "):
        assert list(dict.fromkeys(re.findall(r"^\| `(\w+)`", part, re.MULTILINE))) == order


@pytest.mark.parametrize("name", sorted(name for name, cls in LOSSES.items() if hasattr(cls, "by_position")))
def test_the_table_says_which_losses_need_labels(name: str, tmp_path: Path) -> None:
    model = cross_encoder(tmp_path)
    loss = LOSSES[name](model, LOSSES["ListNetLoss"](model)) if name == "TeacherOrderLoss" else LOSSES[name](model)
    without = any(labels.startswith("none") for *_, labels in compatibility.inputs(name))
    with contextlib.nullcontext() if without else pytest.raises(ValueError, match="label"):
        assert torch.isfinite(loss([["who eats"], ["Pandas eat."], ["Bees fly."]], None))


def test_the_figure_of_the_study_shows_its_table() -> None:
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    text = text.split("<!-- study: tuning sentence-selection 500 -->")[1].split("<!-- study: end -->")[0]
    rows = re.findall(r"^\| (.+?) \| \d \| [\de.-]+ \| 3 \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    drawn = figures.study()
    assert [(dot.name, f"{dot.value:.4f}", f"{dot.high - dot.value:.4f}") for dot in drawn] == rows
    assert len(rows) == 9


def test_the_figure_of_all_tasks_shows_their_table() -> None:
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    text = text.split("<!-- study: overview -->")[1].split("<!-- study: end -->")[0]
    cells = re.findall(r"([+-][\d.]+) \(([+-][\d.]+)\.\.([+-][\d.]+)\)", text)
    drawn = figures.differences()
    assert list(drawn) == ["comparing minus averaging", "comparing minus tuned plain", "averaging minus tuned plain"]
    dots = [(dot.value, dot.low, dot.high) for found in drawn.values() for dot in found]
    assert sorted(tuple(f"{value:+.3f}" for value in dot) for dot in dots) == sorted(cells)
    assert len(cells) >= 27


@pytest.mark.parametrize("page", ["demo", "long-documents"])
def test_figures_of_systems_show_the_tables_of_their_pages(page: str) -> None:
    path, part = {
        "demo": (figures.RESULTS / "demo.json", "against_first_stage"),
        "long-documents": (figures.RESULTS / "long_documents.json", "comparison"),
    }[page]
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for dot in figures.systems(path, part):
        assert f"| {dot.name} | {dot.value:.3f} |" in text


def test_the_figure_of_the_guard_shows_its_table() -> None:
    text = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    points = dict(figures.simulated()[50])
    assert sorted(points) == [-2, -1, -0.5, 0, 1, 2, 4]
    for gain, share in re.findall(r"^\| ([+-]?[\d.]+) \| ([\d.]+)% \|", text, re.MULTILINE):
        assert points[float(gain)] * 100 == pytest.approx(float(share), abs=0.5)


def test_the_committed_figures_are_drawn_from_the_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if version("matplotlib") != PINNED["matplotlib"]:
        pytest.skip("another version of matplotlib draws other bytes")
    for path in figures.draw(tmp_path):
        assert path.read_bytes() == (figures.IMAGES / path.name).read_bytes(), (
            f"run docs/scripts/figures.py: {path.name}"
        )


def test_images_are_small_and_shown() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    for image in figures.IMAGES.iterdir():
        assert image.stat().st_size < 150_000
        assert f"](images/{image.name})" in text


def test_public_names_lead_to_their_place_in_the_reference() -> None:
    hooks = pytest.importorskip("site_hooks", reason="mkdocs is not installed", exc_type=ImportError)
    page = hooks.with_reference((ROOT / "docs" / "api.md").read_text(encoding="utf-8"), ROOT)
    for package, name, _, shown in ENTRIES:
        if shown == "cmp_rerank":
            assert page.count(f"[`{name}`](reference/{package}.md#{name.lower()})") == 1


def test_links_out_of_the_docs_are_told_from_others() -> None:
    hooks = pytest.importorskip("site_hooks", reason="mkdocs is not installed", exc_type=ImportError)
    assert hooks.outside("how-to/lora.md", "../../examples/lora.py") == "examples/lora.py"
    assert hooks.outside("how-to/lora.md", "../engine.md") is None
    assert hooks.outside("study.md", "../benchmarks/study/protocol.md") == "benchmarks/study/protocol.md"
