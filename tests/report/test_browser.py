"""The report in a real browser: wide and narrow, light and dark, and to axe-core.

Needs a Chromium on the path, the package playwright, and npm for axe-core; skips without them.
Pictures of the page are left in build/report-pages.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from jaxdl import report
from jaxdl.core.loading import load_file

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
synthetic = load_file(__file__.replace("test_browser", "synthetic"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core."""
    file = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not file.exists():
        if shutil.which("npm") is None:
            pytest.skip("there is no npm to fetch axe-core with")
        place = ROOT / "build" / "axe"
        command = ["npm", "install", "--silent", "--prefix", str(place), "axe-core@4"]
        if subprocess.run(command, check=False, timeout=120).returncode:
            pytest.skip("axe-core cannot be fetched here")
    return file.read_text()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is on the path: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with long names, many variants, failures and notes."""
    place = tmp_path_factory.mktemp("browser")
    cells = []
    for i in range(7):
        name = f"variant_{i}_with_a_name_that_is_too_long_for_a_phone" if i else "base"
        for seed in range(3):
            cells.append(
                synthetic.write_run(
                    place / f"{name}-{seed}",
                    name,
                    seed,
                    synthetic.both(
                        accuracy=0.9 + 0.01 * i + 0.002 * (seed * (i + 1) % 4), loss=0.1
                    ),
                    seconds=10.0 * (1 + i * 5 % 7),
                    points=60,
                    status="failed" if (i, seed) == (3, 1) else "done",
                    steps=100 + i * (seed == 2),
                )
            )
    study = report.study(cells, title="Does it help?", edits={cells[3].variant: {"a.b": 1}})
    return report.write_report(study, place / "out")[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_is_quiet_and_accessible(browser, page, axe, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True
    )
    shown, heard = context.new_page(), []
    shown.on("console", lambda message: heard.append(message.text))
    shown.on("pageerror", lambda error: heard.append(str(error)))
    shown.on("requestfailed", lambda request: heard.append(request.url))
    shown.goto(page.as_uri())
    shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    folder = ROOT / "build" / "report-pages"
    folder.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=folder / f"{width}-{scheme}.png", full_page=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    heights = (
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(shown.evaluate(heights)) >= 10
    shown.evaluate(axe)
    found = shown.evaluate("axe.run()")
    assert [(v["id"], v["nodes"][0]["html"][:99]) for v in found["violations"]] == []
    assert found["passes"] and heard == []
    context.close()


def test_what_is_folded_away_is_printed(browser, page):
    shown = browser.new_page()
    shown.goto(page.as_uri())
    folded = "document.querySelector('details table').checkVisibility()"
    assert shown.evaluate(folded) is False
    shown.emulate_media(media="print")
    assert shown.evaluate(folded) is True
    shown.close()
