"""The report as a file, and as a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_page import outline
from toys import AXES, Blob, curved, erf_law, straight

from steer.errors import InputError
from steer.evaluation import Evaluation, evaluate
from steer.files import how_made
from steer.generators.base import Generator, LatentSpace
from steer.plots import density_figure, leakage_figure, norms_figure, png, response_figure, violins
from steer.report import SIDE, report, write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--disable-dev-shm-usage", "--virtual-time-budget=10000"),
)
KNOWN = [
    curved("translate-x", AXES[0], erf_law),
    straight("translate-y", AXES[1], 0.1),
    straight("shear-x", AXES[3], 0.1, constant=None),
]


class Parted(Blob):
    """A blob whose codes have two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = LatentSpace(6, {"coarse": 2, "fine": 4})


def paged(found: Evaluation, generator: Generator) -> str:
    made = how_made("evaluate", generator.identity(), seed=1, samples=len(found.z))
    return report(found, generator, made, "steer evaluate -n 12 --hold --html report.html")


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluate(Parted(), KNOWN, samples=12, held=True)


@pytest.fixture(scope="module")
def html(found) -> str:
    return paged(found, Parted())


def pictures(html: str) -> list[bytes]:
    sources = [str(image["src"]) for image in outline(html).all("img")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    return [base64.b64decode(source.partition(",")[2]) for source in sources]


def test_the_figures_are_those_of_the_evaluation(found, html):
    shown = pictures(html)
    first = found.measured[0]
    expected = [
        *(leakage_figure(found), norms_figure(found), response_figure(KNOWN[2])),
        *(violins(first), response_figure(first.direction), density_figure(first)),
    ]
    assert {png(figure) for figure in expected} <= set(shown)
    walks, of_all, of_each, of_one_unmeasured = 3, 2, 3, 1
    assert len(shown) == walks + of_all + 2 * of_each + of_one_unmeasured


def test_all_that_was_asked_for_is_said(found, html):
    page = outline(html)
    assert "steer evaluate -n 12 --hold --html report.html" in page.text
    assert "Control of" in page.text and "intensity" in page.text and "seed 1" in page.text
    sections = [each["id"] for each in page.all("h2") if "id" in each]
    assert sections == ["direction-1", "direction-2", "direction-3"]
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in sections]
    for word in ("unreachable", "not found", "distance", "tolerance", "not measurable"):
        assert word in page.text
    held = found.held[0][0]
    assert held.held == "translate-y" and "Several knobs" in page.text
    alts = [image["alt"] for image in page.all("img")]
    assert all(alts) and len(set(alts)) == len(alts)


def test_nothing_lies_outside(html):
    page = outline(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form"}
    links = [a[key] for _, a in page.tags for key in ("src", "href", "srcset") if a.get(key)]
    assert links and all(str(each).startswith(("data:image/png", "#")) for each in links)
    assert "http://" not in html and "https://" not in html
    assert not any(key.startswith("on") for _, a in page.tags for key in a)


def test_walks_show_what_control_came_to(found, html):
    walk = pictures(html)[2]
    with Image.open(io.BytesIO(walk)) as image:
        grid = np.asarray(image.convert("L"))
    # five columns and four rows of pictures under headings
    assert grid.shape[1] > 5 * 100 and grid.shape[0] > 4 * 100
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert "taken to −0.286, −0.143, 0, 0.143, 0.286 in closed loop" in captions[2]


def test_one_value_is_shown_beside_what_was_there_and_large_pictures_smaller():
    large = Blob(size=2 * SIDE)
    found = evaluate(large, KNOWN[:1], samples=8, values=[0.1], exact=False)
    page = paged(found, large)
    assert "of the same items taken to 0.1 in open loop" in page
    with Image.open(io.BytesIO(pictures(page)[1])) as image:
        width, height = image.size
    assert 4 * SIDE < width < 5 * SIDE and 2 * SIDE < height < 3 * SIDE


def test_names_of_strangers_stay_text():
    hostile = r'<img src=x onerror="alert(1)">$\frac{</td>&lt;'
    stranger = straight(hostile, AXES[3], 0.1, constant=None)
    stranger.unit = "</style><script>$x"
    page = Blob()
    page.name = "<b>&amp;"
    text = paged(evaluate(page, [KNOWN[0], stranger], samples=8, values=None), page)
    found = outline(text)
    assert hostile in found.text and found.all("script") == found.all("b") == []
    assert all(str(each["src"]).startswith("data:") for each in found.all("img"))
    assert "Control of <b>&amp;" in found.text


def test_nothing_found_is_a_dash():
    class Mostly(Blob):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z) * (z[:, 0] > 0.5)[:, None, None, None]

    page = paged(evaluate(Mostly(), KNOWN[:1], samples=16, values=[0.4]), Mostly())
    assert "<td>–</td>" in page and "nan" not in outline(page).text


@pytest.mark.parametrize("name", ["report.htm", "report", "-", "report.html.png"])
def test_a_report_is_called_html(name, found, tmp_path):
    with pytest.raises(InputError, match=r"expected a name in \.html"):
        write_report(tmp_path / name, found, Parted(), {}, "")
    assert list(tmp_path.iterdir()) == []


# --- in a browser ---


def browse(page: Path, *flags: str) -> bytes:
    """What headless Chromium prints of a page."""
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout


LOOK = """
<!DOCTYPE html><meta charset="utf-8"><body>
<iframe srcdoc="{page}" style="width:1200px;height:800px;border:0"></iframe>
<iframe srcdoc="{page}" style="width:400px;height:800px;border:0"></iframe>
<pre id="seen"></pre>
<script>
addEventListener("load", () => {{
  const shown = [...document.querySelectorAll("iframe")].map(iframe => iframe.contentWindow);
  document.getElementById("seen").textContent = JSON.stringify(shown.map(frame => ({{
    images: [...frame.document.images].map(i => [i.complete, i.naturalWidth, i.width]),
    wide: frame.document.documentElement.scrollWidth,
    tall: frame.document.documentElement.scrollHeight,
    fetched: frame.performance.getEntriesByType("resource").map(e => e.name)
      .filter(name => !name.startsWith("data:")),
    blue: frame.getComputedStyle(frame.document.querySelector("a")).color,
  }})));
}});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_every_picture_and_fetches_nothing(html, tmp_path):
    (tmp_path / "look.html").write_text(LOOK.format(page=escape(html)))
    dom = browse(tmp_path / "look.html", "--dump-dom").decode()
    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert seen is not None
    for frame, width in zip(json.loads(unescape(seen[1])), (1200, 400), strict=True):
        assert len(frame["images"]) == len(pictures(html))
        assert all(done and own > 100 and shown > 100 for done, own, shown in frame["images"])
        assert frame["wide"] <= width < frame["tall"] and frame["fetched"] == []
        assert frame["blue"] == "rgb(33, 102, 172)"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_screenshot_has_the_figures_in_it(html, found, tmp_path):
    write_report(
        tmp_path / "report.html", found, Parted(), how_made("evaluate", Parted().identity()), ""
    )
    shot = tmp_path / "shot.png"
    browse(tmp_path / "report.html", "--window-size=1200,3000", f"--screenshot={shot}")
    with Image.open(shot) as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    assert page.shape == (3000, 1200, 3)
    red = (page[..., 0] > page[..., 1:].max(-1) + 80).sum()  # standard deviations
    blue = (page[..., 2] > page[..., 0] + 40).sum()  # violins, leakage and histograms
    black = (page.max(-1) < 40).sum()  # pictures of blobs
    assert red > 1000 and blue > 50_000 and black > 50_000
