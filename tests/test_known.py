"""The names of published generators, as data."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from steer.generators import families, generators
from steer.generators.known import KNOWN
from steer.hub import SUFFIXES, HubId

SOURCES = {known.source: known for known in KNOWN.values()}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_a_hub_id_or_a_url_with_what_is_known_of_the_file(source):
    if "://" not in source:
        assert HubId.parse(source).revision == "main"
        return
    url = urlsplit(source)
    assert url.scheme == "https" and url.path.endswith(SUFFIXES) and not url.query
    checks = parse_qs(url.fragment, strict_parsing=bool(url.fragment))
    assert checks.keys() <= {"sha256", "size"}
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in checks.get("sha256", []))
    assert all(int(each) > 1_000_000 for each in checks.get("size", []))


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_said_of_a_name(name):
    known = KNOWN[name]
    assert known.family in families and name in generators
    assert name.startswith(known.family.removesuffix("-deep"))
    channels, height, width = known.picture
    assert channels == 3 and height == width
    named = re.findall(r"(?<=[-x])(\d{2,4})(?=[x.-]|$)", f"{name} {known.source}".replace(" ", "-"))
    assert {int(side) for side in named} <= {height}
    assert known.latents == (128 if known.family == "biggan-deep" else 512)


@pytest.mark.parametrize("known", SOURCES.values(), ids=lambda known: known.source[-40:])
def test_the_licence_is_one_sentence(known):
    assert known.licence.endswith(".") and not re.search(r"[.!?]\s|\n", known.licence)
    assert known.licence_id in ("mit", "other")
    is_nvidias = "ngc.nvidia.com" in known.source or "ffhq" in known.source
    assert is_nvidias == ("no commercial use" in known.licence)


def test_short_names_are_the_same_things():
    assert KNOWN["biggan"] is KNOWN["biggan-128"] is KNOWN["biggan-deep-128"]
    assert KNOWN["biggan-256"] is KNOWN["biggan-deep-256"]
    assert "size=234411737" in KNOWN["biggan-256"].source
    assert "sha256=5900ef40" in KNOWN["biggan-256"].source
