"""Parts of an HTML page."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from steer.images import to_png
from steer.page import STYLE, document, number, percent, picture, table


class Outline(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def outline(html: str) -> Outline:
    """Raises where a tag is closed that is not open, or left open."""
    found = Outline(html)
    assert found.open == []
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (-0.0, "0"), (1e-12, "0"), (0.25, "0.25"), (-2.5361, "−2.54")),
        *((np.nan, "–"), (None, "–"), (np.float64(12.34), "12.3"), (1234.5, "1.23e+03")),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_shares():
    assert [percent(share) for share in (0, 1, 1 / 3, None)] == ["0%", "100%", "33.3%", "–"]


def test_a_page_closes_what_it_opens_and_escapes_its_title():
    page = outline(document("<b>&", [table("caption", ["a"], [["1"], ["2"]]), "", "<p>x</p>"]))
    assert page.all("html") == [{"lang": "en"}] and len(page.all("td")) == 2
    assert page.text.count("<b>&") == 2 and page.all("b") == []
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "url(" not in STYLE and "@import" not in STYLE


def test_a_picture_says_its_size_and_what_it_shows():
    data = to_png(torch.zeros(3, 4, 6))
    (image,) = outline(picture(data, 'a "quoted" <alt>', "a < b", wide=True)).all("img")
    assert (image["width"], image["height"]) == ("6", "4") and image["alt"] == 'a "quoted" <alt>'
    assert str(image["src"]).startswith("data:image/png;base64,")
