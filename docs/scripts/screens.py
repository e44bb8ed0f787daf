"""Pictures of the report at two widths: of docstrings of numpy, in a real browser.

    python docs/scripts/screens.py

It needs chromium, chromedriver and selenium. The pictures are committed, so that building the site needs no browser.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from cmp_rerank.collections import load
from cmp_rerank.evaluation.report import write_report
from cmp_rerank.ir import BM25

IMAGES = Path(__file__).parents[1] / "images"
#: Name -> width and height in pixels.
SIZES = {"report_desktop": (1200, 900), "report_phone": (390, 800)}
LIMIT = 150_000


def report(folder: Path) -> Path:
    """BM25 with two settings, on the test queries of the collection."""
    data = load("docstrings:numpy")
    queries = data.queries("test")
    systems = {
        "BM25": BM25(data.corpus).search(queries, depth=50),
        "BM25, no length normalisation": BM25(data.corpus, b=0.0).search(queries, depth=50),
    }
    path = folder / "report.html"
    write_report(path, systems, data.qrels("test"), "nDCG@10 RR@10", queries=queries, corpus=data.corpus)
    return path


def screens(page: Path, folder: Path = IMAGES) -> list[Path]:
    """Take the pictures.

    Args:
        page: the report.
        folder: where they go.

    Returns:
        The paths of the pictures: PNG of at most 64 colours.

    Raises:
        ValueError: a picture has more than 150 KB.
    """
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    paths = []
    try:
        for name, (width, height) in SIZES.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page.as_uri())
            path = folder / f"{name}.png"
            driver.save_screenshot(str(path))
            Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
            if path.stat().st_size > LIMIT:
                raise ValueError(f"a picture has at most {LIMIT:,} bytes; got {path.stat().st_size:,} for {path}")
            paths.append(path)
    finally:
        driver.quit()
    return paths


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for made in screens(report(Path(folder))):
            print(made)
