"""steer models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Steer, tiny_vae

from steer.disk import save_json
from steer.generators import families, generators
from steer.generators.biggan_deep import BigGANDeep


def test_json_lists_every_registered_generator(steer: Steer) -> None:
    listed = steer("models", "--json").summary
    assert [row["name"] for row in listed["models"]] == generators.names()
    assert listed["families"] == families.names()
    sprites = next(row for row in listed["models"] if row["name"] == "sprites")
    assert sprites["picture"] == [3, 64, 64]
    assert (sprites["encoder"], sprites["where"]) == (True, "installed")


def test_published_weights_are_listed_without_fetching_or_loading_any(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("STEER_HOME", str(tmp_path))
    monkeypatch.setattr(BigGANDeep, "from_checkpoint", None)
    snapshot = tmp_path / "hub" / "models--osanseviero--BigGAN-deep-128" / "snapshots"
    rows = {row["name"]: row for row in steer("models", "--json").summary["models"]}
    assert (rows["biggan"]["where"], rows["biggan-256"]["where"]) == ("Hub", "URL")
    assert rows["biggan-512"] == {
        "name": "biggan-512",
        "family": "biggan-deep",
        "picture": [3, 512, 512],
        "latents": 128,
        "encoder": False,
        "directions": [],
        "where": "URL",
    }
    (snapshot / "main").mkdir(parents=True)
    for name in ("config.json", "pytorch_model.bin"):
        (snapshot / "main" / name).write_bytes(b"not read")
    rows = {row["name"]: row for row in steer("models", "--json").summary["models"]}
    assert rows["biggan"]["where"] == rows["biggan-128"]["where"] == "cached"


def test_the_table_says_the_same(steer: Steer) -> None:
    ended = steer("models")
    text = ended.out.decode()
    assert ended.status == 0 and ended.err == ""
    for word in ("sprites", "3x64x64", "yes", *families.names()):
        assert word in text


def test_cached_models_of_known_families_are_listed(
    steer: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout is documented at https://huggingface.co/docs/hub/local-cache."""
    for name in ("ours", "theirs", "odd"):
        repository = tmp_path / f"models--someone--{name}"
        snapshot = tiny_vae(repository / "snapshots" / ("a" * 40), seed=0)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
        if name == "theirs":
            save_json(snapshot / "config.json", {"family": "transformer"})
        if name == "odd":
            (snapshot / "config.json").write_text("no JSON")
    import huggingface_hub.utils._cache_manager as cache

    monkeypatch.setattr(cache, "HF_HUB_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in steer("models", "--json").summary["models"]}
    assert rows["someone/ours"]["where"] == "Hub cache"
    assert rows["someone/ours"]["picture"] == [3, 16, 16]
    assert not {"someone/theirs", "someone/odd"} & rows.keys()
    shutil.rmtree(tmp_path)
    assert steer("models", "--json").status == 0
