"""The report: what it is built from, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmp_rerank.evaluation import evaluate
from cmp_rerank.evaluation.report import build_report, read_curves, shown_documents, write_report
from cmp_rerank.evaluation.report.payload import clip
from cmp_rerank.ir import rank, write_run

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def collection(queries: int, docs: int = 30) -> dict[str, Any]:
    """Two systems with gains, losses and ties; some queries are missing from the second one."""
    rng = np.random.default_rng(3)
    ids = [f"q{i}" for i in range(queries)]
    qrels = {q: {f"d{j}": int(g) for j, g in zip(range(6), rng.integers(0, 4, 6), strict=True)} for q in ids}
    for grades in qrels.values():
        grades["d0"] = 1
    first = {q: {f"d{j}": float(rng.normal()) for j in range(docs)} for q in ids}
    tuned = {
        q: {d: s if i % 3 == 0 else float(rng.normal() + 0.5 * (qrels[q].get(d, 0) > 0)) for d, s in first[q].items()}
        for i, q in enumerate(ids)
        if i % 50 != 7
    }
    texts = {q: f"words of query {i}" for i, q in enumerate(ids)}
    texts["q1"] = EVIL
    corpus = {f"d{j}": f"document {j} " + " ".join(rng.choice(list("abcdefgh"), 100)) for j in range(docs)}
    corpus["d0"] = EVIL
    return {"runs": {"first": first, "tuned": tuned}, "qrels": qrels, "queries": texts, "corpus": corpus}


def data_of(html: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def unpacked(data: dict[str, Any], name: str) -> list[Any]:
    return [item for chunk in data[name] for item in json.loads(gzip.decompress(base64.b64decode(chunk)))]


# --- what it is built from ----------------------------------------------------------------------------------


@pytest.mark.parametrize("from_files", [False, True])
def test_the_page_holds_what_the_runs_hold(tmp_path: Path, from_files: bool) -> None:
    parts = collection(120)
    runs = dict(parts["runs"])
    if from_files:
        for name, run in runs.items():
            write_run(tmp_path / f"{name}.trec", run)
            runs[name] = tmp_path / f"{name}.trec"
    html, comparison = build_report(
        runs, parts["qrels"], "nDCG@10 RR", queries=parts["queries"], corpus=parts["corpus"], depth=4, resamples=200
    )
    data = data_of(html)
    details, docs = unpacked(data, "detail"), unpacked(data, "docs")
    assert data["ids"] == list(parts["qrels"])
    assert len(data["detail"]) > 2  # canary: there is more than one chunk
    for s, name in enumerate(("first", "tuned")):
        run = parts["runs"][name]
        expected = evaluate(run, parts["qrels"], "nDCG@10 RR")
        for m in range(2):
            assert data["values"][s][m] == pytest.approx(expected.values[:, m].tolist(), abs=6e-6)
        for q, query in enumerate(data["ids"]):
            ranks = {
                other: {d: i for i, (d, _) in enumerate(rank(r.get(query, {})), 1)}
                for other, r in parts["runs"].items()
            }
            top = details[q][0][s]
            assert [docs[item[0]][0] for item in top] == [d for d, _ in rank(run.get(query, {}))[:4]]
            for item in top:
                doc = docs[item[0]][0]
                assert item[1] == parts["qrels"][query].get(doc)
                assert item[2:4] == [ranks["first"].get(doc, 0), ranks["tuned"].get(doc, 0)]
                assert item[4] == pytest.approx(run[query][doc], rel=1e-4)
            shown = {docs[item[0]][0] for side in details[q][0] for item in side}
            below = {docs[item[0]][0] for item in details[q][1]}
            relevant = {d for d, g in parts["qrels"][query].items() if g > 0}
            assert below == relevant - shown
            assert data["relevant"]["1"][q] == len(relevant)
    assert {doc for doc, _ in docs} >= shown_documents(parts["runs"], parts["qrels"], 4)
    assert comparison.contrast("tuned", "RR").measure == "RR"
    assert f"{comparison.contrast('tuned', 'nDCG@10').difference:+.4f}" in html


def test_nothing_leaves_the_page_and_no_text_breaks_it() -> None:
    parts = collection(60)
    html, _ = build_report(**parts, measures="RR", resamples=100, title="<b>title</b>")
    assert "<script>window.hacked" not in html
    assert "&lt;b&gt;title" in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html


def test_texts_are_cut_until_the_page_fits() -> None:
    parts = collection(60)
    full, _ = build_report(**parts, measures="RR", resamples=100, text_chars=400)
    limit = len(full.encode()) - 300
    small, _ = build_report(**parts, measures="RR", resamples=100, text_chars=400, max_bytes=limit)
    assert len(small.encode()) <= limit
    longest = max(len(text) for _, text in unpacked(data_of(small), "docs"))
    assert 0 < longest < max(len(text) for _, text in unpacked(data_of(full), "docs"))
    with pytest.raises(ValueError, match=r"at most max_bytes=1,000; got [0-9,]+ bytes without any text; lower depth"):
        build_report(**parts, measures="RR", resamples=100, max_bytes=1000)


@pytest.mark.parametrize("text", [" " * 500 + "late text", "\n\t" * 20 + "a", "x" * 600, "one " * 200, " ", ""])
def test_texts_that_begin_with_blanks_are_cut_at_a_word(text: str) -> None:
    found = clip(text, 30)
    words = found.removesuffix(" …")
    assert text.strip().startswith(words)
    assert len(words) <= 30
    assert found.endswith(" …") == (len(text.strip()) > 30)
    runs = {name: {"q": {"d": 1.0}} for name in "ab"}
    page, _ = build_report(runs, {"q": {"d": 1}}, "RR", queries={"q": f"{text}x"}, corpus={"d": text}, text_chars=30)
    assert unpacked(data_of(page), "docs") == [["d", found]]


def test_seeds_several_systems_and_curves() -> None:
    parts = collection(60)
    first, tuned = parts["runs"].values()
    runs = {"first": first, "tuned": [tuned, first], "again": first}
    html, comparison = build_report(
        runs, parts["qrels"], "RR", baseline="first", resamples=100, curves={"loss": {"a": [[0, 1.0], [1, 0.5]]}}
    )
    assert "2 seeds" in html
    assert "tuned: values are means over seeds, rankings are those of the first" in html
    assert "no significant difference from first in " in html
    data = data_of(html)
    assert data["systems"] == ["first", "tuned", "again"]
    assert data["values"][1][0] == pytest.approx(comparison.values["tuned"].mean(axis=0)[:, 0].tolist(), abs=6e-6)
    assert not data["hasText"]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = collection(20)
    first = parts["runs"]["first"]
    with pytest.raises(ValueError, match="give the run of 'b', not its evaluation"):
        build_report({"a": first, "b": evaluate(first, parts["qrels"], "RR")}, parts["qrels"], "RR")
    with pytest.raises(ValueError, match="depth must be a whole number of at least 1; got 0"):
        build_report({"a": first, "b": first}, parts["qrels"], "RR", depth=0)
    with pytest.raises(ValueError, match="the series 'x' of 'loss' must be a list"):
        build_report({"a": first, "b": first}, parts["qrels"], "RR", resamples=10, curves={"loss": {"x": [[1]]}})
    with pytest.raises(ValueError, match="no query of the run is judged"):
        write_report(tmp_path / "r.html", {"a": first, "b": {"x": {"d": 1.0}}}, parts["qrels"], "RR")
    assert list(tmp_path.iterdir()) == []
    from cmp_rerank.evaluation.report import page

    page._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'cmp-rerank\[report\]'"):
        build_report({"a": first, "b": first}, parts["qrels"], "RR")
    page._environment.cache_clear()


def test_curves_from_files(tmp_path: Path) -> None:
    (tmp_path / "dev_results.csv").write_text("epoch,steps,RR,nDCG@10\n0.5,10,0.1,0.2\n1.0,20,0.3,0.4\n")
    assert read_curves(tmp_path / "dev_results.csv") == {
        "RR": {"dev": [[10.0, 0.1], [20.0, 0.3]]},
        "nDCG@10": {"dev": [[10.0, 0.2], [20.0, 0.4]]},
    }
    (tmp_path / "c.json").write_text('{"loss": {"a": [[0, 1]]}}')
    assert read_curves(tmp_path / "c.json") == {"loss": {"a": [[0, 1]]}}
    (tmp_path / "c.json").write_text("{\n nothing")
    with pytest.raises(ValueError, match=r"c\.json, line 2: not JSON"):
        read_curves(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('{"config": {"segmenter": "Sentences()"}, "points": {}}')
    with pytest.raises(ValueError, match=r"c\.json: these are the utility curves of `cmp-rerank curves`"):
        read_curves(tmp_path / "c.json")
    (tmp_path / "bad.csv").write_text("steps,RR\n1,high\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 2: a value is not a number"):
        read_curves(tmp_path / "bad.csv")


def test_relevance_is_that_of_the_measure_and_a_text_that_lacks_is_told_from_an_empty_one() -> None:
    grades = {f"d{j}": 1 + j % 3 for j in range(20)}
    run = {"q": {f"d{j}": float(-j) for j in range(20)}}
    corpus = {"d0": "text", "d1": ""}
    html, _ = build_report(
        {"a": run, "b": run}, {"q": grades}, "RR(rel=3) nDCG@10 AP(rel=2)", corpus=corpus, depth=2, resamples=10
    )
    data = data_of(html)
    assert data["levels"] == [3, 1, 2]
    assert data["relevant"] == {"1": [20], "2": [13], "3": [6]}
    tops, below, more = unpacked(data, "detail")[0]
    shown = [item[1] for item in tops[0]]
    for level, relevant in data["relevant"].items():
        listed = [grade for grade in [*shown, *(item[1] for item in below), *more] if grade >= int(level)]
        assert len(listed) == relevant[0]
    assert dict(unpacked(data, "docs")) == {doc: corpus.get(doc) for doc, _ in unpacked(data, "docs")}


# --- in a browser -------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1000"
)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    parts = collection(300)
    curves = {
        "loss": {"a": [[0, 1.0], [1, 0.5]]},
        "one entry of the log": {f"step {i}": [[10, 0.5 + i / 10]] for i in range(2)},
        "many": {f"step {i}": [[0, i], [10, i + 1]] for i in range(12)},
    }
    write_report(path, measures="nDCG@10 RR", resamples=200, curves=curves, **parts)
    return path, parts


@pytest.fixture
def opened(browser: Any, page: tuple[Path, dict[str, Any]]) -> Iterator[Any]:
    """The report, freshly opened; at the end of the test nothing was logged and nothing was fetched."""

    def media(scheme: str, width: int, height: int) -> None:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(page[0].as_uri())

    browser.open_report = media
    media("light", 1200, 1000)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.execute_script("return window.hacked") is None


def differences(parts: dict[str, Any], measure: str) -> dict[str, float]:
    values = {n: evaluate(r, parts["qrels"], measure).per_query[measure] for n, r in parts["runs"].items()}
    return {q: values["tuned"][q] - values["first"][q] for q in parts["qrels"]}


def rows(browser: Any) -> list[int]:
    script = "[...document.querySelectorAll('.query')].map(e => Number(e.dataset.query))"
    return browser.execute_script("return " + script)


def wait(browser: Any, condition: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda b: b.execute_script("return " + condition))


def choose(browser: Any, control: str, value: str) -> None:
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('change'))",
        control,
        value,
    )


def test_opens_and_draws(opened: Any, page: tuple[Path, dict[str, Any]]) -> None:
    assert len(rows(opened)) == 100  # and not 300
    assert opened.execute_script("return document.getElementById('count').textContent") == "300 queries"
    assert not opened.find_element("id", "system-label").is_displayed()  # there is only one to choose
    expected = differences(page[1], "nDCG@10")
    better, worse = sum(d > 5e-6 for d in expected.values()), sum(d < -5e-6 for d in expected.values())
    caption = opened.execute_script("return document.getElementById('bars-caption').textContent")
    assert caption == f"nDCG@10, tuned minus first: {better} better, {300 - better - worse} equal, {worse} worse"
    for drawing, marks in (("bars", "path.gain"), ("scatter", "path.dots.gain"), ("curves", "svg path")):
        assert opened.execute_script(f"return document.querySelector('#{drawing} {marks}').getBBox().width") > 20
    bars = opened.execute_script(
        "return document.querySelector('#bars path.gain').getAttribute('d').match(/M/g).length"
    )
    assert bars == better


def test_curves_of_one_point_are_seen_and_lines_are_told_apart(opened: Any) -> None:
    _, one, many = opened.find_elements("css selector", "#curves figure")
    texts = [text.text for text in one.find_elements("css selector", "text")]
    assert texts == ["0.500", "0.550", "0.600", "10"]  # each once
    points = one.find_elements("css selector", "path:not(.axis)")
    assert [point.value_of_css_property("stroke-linecap") for point in points] == ["round", "round"]
    assert all(point.get_attribute("d").endswith("h0") for point in points)
    looks = [mark.value_of_css_property("border-top") for mark in many.find_elements("css selector", ".legend i")]
    drawn = [
        (line.value_of_css_property("stroke"), line.value_of_css_property("stroke-dasharray"))
        for line in many.find_elements("css selector", "path:not(.axis)")
    ]
    assert len(set(looks)) == len(set(drawn)) == 12


def test_sort_filter_and_search(opened: Any, page: tuple[Path, dict[str, Any]]) -> None:
    expected = list(differences(page[1], "nDCG@10").values())
    drawn = rows(opened)
    assert expected[drawn[0]] == min(expected)  # the largest loss first
    assert [expected[q] for q in drawn] == pytest.approx(sorted(expected)[:100], abs=1e-5)
    choose(opened, "sort", "gain")
    assert expected[rows(opened)[0]] == max(expected)
    choose(opened, "filter", "loss")
    drawn = rows(opened)
    assert all(expected[q] < 0 for q in drawn)
    total = sum(d < -5e-6 for d in expected)
    assert opened.execute_script("return document.getElementById('count').textContent") == f"{total} of 300 queries"
    choose(opened, "filter", "same")
    assert all(expected[q] == 0 for q in rows(opened))
    choose(opened, "filter", "all")
    search = opened.find_element("id", "search")
    search.send_keys("query 29")
    wait(opened, "document.querySelectorAll('.query').length === 13")
    assert set(rows(opened)) == {q for q in range(300) if "29" in str(q)}
    search.send_keys("zzz")
    wait(opened, "document.querySelector('#list .empty') !== null")
    search.send_keys("\ue00c")  # Escape
    wait(opened, "document.querySelectorAll('.query').length === 100")
    choose(opened, "measure", "1")
    by_rr = list(differences(page[1], "RR").values())
    assert by_rr[rows(opened)[0]] == max(by_rr)
    opened.execute_script("document.getElementById('more').click()")
    assert len(rows(opened)) >= 200


def test_keyboard_opens_both_rankings(opened: Any, page: tuple[Path, dict[str, Any]]) -> None:
    from selenium.webdriver import ActionChains, Keys

    runs, qrels = page[1]["runs"], page[1]["qrels"]
    choose(opened, "sort", "file")
    ActionChains(opened).send_keys("jjj").send_keys(Keys.ENTER).perform()
    wait(opened, "document.querySelectorAll('.doc').length === 20")
    assert opened.execute_script("return document.activeElement.closest('.query').dataset.query") == "2"
    for name in ("first", "tuned"):
        top = rank(runs[name]["q2"])[:10]
        ranks = {n: {d: i for i, (d, _) in enumerate(rank(runs[n]["q2"]), 1)} for n in runs}
        side = f"document.querySelectorAll('.side')[{('first', 'tuned').index(name)}]"
        shown = opened.execute_script(
            f"return [...{side}.querySelectorAll('.doc')].map(e => [e.querySelector('.name').textContent, "
            "e.querySelector('.grade').textContent, e.querySelector('.head').lastChild.textContent])"
        )
        assert [entry[0] for entry in shown] == [doc for doc, _ in top]
        assert [entry[1] for entry in shown] == [str(qrels["q2"].get(doc, "?")) for doc, _ in top]
        for doc, _, moved in shown:
            change = ranks["first"][doc] - ranks["tuned"][doc]
            if name == "tuned":
                assert moved == ("=" if change == 0 else f"{'▲' if change > 0 else '▼'} {abs(change)}")
            else:
                assert moved == ("stays" if change == 0 else f"→ {ranks['tuned'][doc]}")
    ActionChains(opened).send_keys(Keys.ESCAPE).perform()
    assert opened.execute_script("return document.querySelectorAll('.doc').length") == 0
    ActionChains(opened).send_keys(Keys.ARROW_UP).perform()
    assert opened.execute_script("return document.activeElement.closest('.query').dataset.query") == "1"
    ActionChains(opened).send_keys(Keys.ENTER).perform()  # the query and a document with markup in their texts
    wait(opened, "document.querySelectorAll('.doc').length === 20")
    ActionChains(opened).send_keys("/").perform()
    assert opened.execute_script("return document.activeElement.id") == "search"


def test_a_bar_opens_its_query(opened: Any, page: tuple[Path, dict[str, Any]]) -> None:
    from selenium.webdriver import ActionChains

    expected = differences(page[1], "nDCG@10")
    best = max(expected.values())
    choose(opened, "filter", "loss")
    bars = opened.find_element("id", "bars")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", bars)
    offset = -(bars.size["width"] / 2) + 47
    ActionChains(opened).move_to_element_with_offset(bars, int(offset), 0).click().perform()
    wait(opened, "document.querySelectorAll('.doc').length > 0")
    query = opened.execute_script("return document.activeElement.closest('.query').dataset.query")
    assert expected[f"q{query}"] == pytest.approx(best, abs=1e-5)


def test_a_query_that_a_run_lacks(opened: Any) -> None:
    opened.find_element("id", "search").send_keys("q57")
    wait(opened, "document.querySelectorAll('.query').length === 1")
    opened.execute_script("document.querySelector('.query button').click()")
    wait(opened, "document.querySelectorAll('.doc').length === 10")
    assert "This run has no result for the query." in opened.find_element("id", "list").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_phone_and_desktop_light_and_dark(opened: Any, scheme: str, width: int) -> None:
    opened.open_report(scheme, width, 800)
    opened.execute_script("document.querySelector('.query button').click()")
    wait(opened, "document.querySelectorAll('.doc').length > 0")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width  # nothing hangs out
    visible = "[...document.querySelectorAll('.side')].filter(e => e.offsetWidth).map(e => e.dataset.system)"
    assert opened.execute_script("return " + visible) == (["1"] if width == 360 else ["0", "1"])
    if width == 360:
        opened.execute_script("document.querySelector('.switch button').click()")
        assert opened.execute_script("return " + visible) == ["0"]

    def brightness(property: str) -> float:
        color = opened.execute_script(f"return getComputedStyle(document.body).{property}")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    assert (brightness("backgroundColor") < 60) == (scheme == "dark")
    assert abs(brightness("backgroundColor") - brightness("color")) > 150
    opened.find_element("id", "theme").click()
    assert (brightness("backgroundColor") < 60) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 360, 720])
def test_a_phone_shows_all_figures_of_the_summary(opened: Any, width: int) -> None:
    opened.open_report("light", width, 800)
    cells = opened.execute_script(
        "return [...document.querySelectorAll('tr.better td, tr.worse td, tr.not-significant td')].map(e => {"
        "const b = e.getBoundingClientRect(); return [e.dataset.label, b.left, b.right, b.height,"
        "e.scrollWidth - e.clientWidth, getComputedStyle(e, '::before').content]})"
    )
    labels = [
        "mean",
        "interval",
        "difference",
        "interval of the difference",
        "p t",
        "p rand.",
        "d",
        "+ / = / −",
        "MDE",
    ]
    assert [cell[0] for cell in cells] == labels * 2
    for label, left, right, height, hidden, before in cells:
        assert 0 <= left < right <= width, label
        assert 10 < height < (60 if label.startswith("interval of") else 30)  # no figure is broken
        assert hidden <= 0, label
        assert before == f'"{label}"'
    assert (
        opened.execute_script("const e = document.querySelector('.scroll'); return e.scrollWidth - e.clientWidth")
        <= 0
    )


@pytest.mark.parametrize("width", [320, 360, 1200])
def test_no_choice_of_a_control_is_cut(opened: Any, width: int) -> None:
    opened.open_report("light", width, 800)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    cut = opened.execute_script(
        "const context = document.createElement('canvas').getContext('2d');"
        "return ['measure', 'filter', 'sort'].flatMap(id => { const e = document.getElementById(id);"
        "const s = getComputedStyle(e); context.font = s.font;"
        "const room = e.clientWidth - parseFloat(s.paddingLeft) - parseFloat(s.paddingRight);"
        "return [...e.options].filter(o => context.measureText(o.textContent).width > room).map(o => o.textContent)})"
    )
    assert cut == []


def test_grades_below_what_the_measure_takes_and_missing_texts(browser: Any, tmp_path: Path) -> None:
    run = {"q": {"one": 3.0, "two": 2.0, "none": 1.0}}
    write_report(
        tmp_path / "page.html", {"a": run, "b": run}, {"q": {"one": 1, "two": 2, "far": 2, "near": 1}},
        "RR(rel=2) RR", corpus={"one": "text", "two": ""}, resamples=10,
    )  # fmt: skip
    browser.get((tmp_path / "page.html").as_uri())

    def shown() -> tuple[list[str], str, str]:
        browser.execute_script("document.querySelector('.query button').click()")
        wait(browser, "document.querySelectorAll('.doc').length === 6")
        below = "[...document.querySelectorAll('.side.on .grade.partial')].map(e => e.title)"
        about = browser.execute_script("return document.querySelector('.query .id').textContent")
        return browser.execute_script("return " + below), about, browser.find_element("css selector", ".below").text

    assert shown() == (
        ["grade 1: not relevant in RR(rel=2)"],
        "2 relevant (grade 2 and above)",
        "Relevant (grade 2 and above), but below what is shown:\nfar (grade 2): a not found, b not found",
    )
    lacking = browser.execute_script("return [...document.querySelectorAll('.side.on .doc')].map(e => e.innerText)")
    assert ["no text" in text for text in lacking] == [False, True, False]
    assert ["corpus does not have" in text for text in lacking] == [False, False, True]
    choose(browser, "measure", "1")
    marked, about, below = shown()
    assert (marked, about) == ([], "4 relevant")
    assert below.count("grade") == 2


def test_a_printed_page_is_light_and_has_all_figures(opened: Any) -> None:
    opened.open_report("dark", 1200, 1000)
    opened.execute_script("document.querySelector('.query button').click()")
    wait(opened, "document.querySelectorAll('.doc').length > 0")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    opened.execute_cdp_cmd(  # the width of A4 between its margins
        "Emulation.setDeviceMetricsOverride", {"width": 760, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 245)"
        assert not any(opened.find_element("id", name).is_displayed() for name in ("theme", "search", "more"))
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 760
        assert opened.execute_script("const e = document.querySelector('.scroll'); return e.scrollWidth") <= 760
        assert all(side.is_displayed() for side in opened.find_elements("class name", "side"))
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_5000_queries_stay_usable(browser: Any, tmp_path: Path) -> None:
    parts = collection(5000, docs=12)
    path = tmp_path / "big.html"
    write_report(path, measures="nDCG@10 RR", resamples=50, **parts)
    assert path.stat().st_size < 20_000_000
    browser.get(path.as_uri())
    assert len(rows(browser)) == 100
    seconds = browser.execute_script(
        "const t = performance.now(); const e = document.getElementById('sort'); e.value = 'gain';"
        "e.dispatchEvent(new Event('change')); return (performance.now() - t) / 1000"
    )
    assert seconds < 5  # not a benchmark: drawing all 5,000 rows would take much longer
    browser.find_element("id", "search").send_keys("q4999")
    wait(browser, "document.querySelectorAll('.query').length === 1")
    browser.execute_script("document.querySelector('.query button').click()")
    wait(browser, "document.querySelectorAll('.doc').length > 0")
    docs = browser.execute_script(
        "return [...document.querySelectorAll('.side:last-child .name')].map(e => e.textContent)"
    )
    assert docs == [doc for doc, _ in rank(parts["runs"]["tuned"]["q4999"])[:10]]


def test_half_of_a_surrogate_pair_is_shown_as_the_replacement_character(tmp_path: Path) -> None:
    run = {"q\ud83d": {"d\ud83d": 1.0}}
    texts = {"d\ud83d": "text \udd89"}
    write_report(
        tmp_path / "page.html",
        {"a": run, "b\ud83d": run},
        {"q\ud83d": {"d\ud83d": 1}},
        "RR",
        queries={"q\ud83d": "asked \ud83d"},
        corpus=texts,
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "asked \ufffd" in page
    assert "text \ufffd" in str(unpacked(data_of(page), "docs"))
