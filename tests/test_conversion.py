"""Checkpoints of every layout become folders that make the same pictures; folders appear whole."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import published
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError

from steer import checkpoints, conversion, folders, sharing
from steer.checkpoints import Checkpoint
from steer.conversion import convert
from steer.errors import InputError, MachineError
from steer.generators import Known, PictureShape, families, generators, load
from steer.generators.base import Generator, LatentSpace
from steer.generators.known import KNOWN
from steer.hub import Source, hub_failures
from steer.sharing import pull, push

NAMES = ["README.md", "config.json", "model.safetensors"]


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- every layout ---


@pytest.mark.parametrize("write", published.LAYOUTS, ids=lambda write: write.__name__)
def test_a_conversion_makes_the_same_pictures(write, tmp_path):
    original = write(tmp_path / "original")
    made = convert(str(original), tmp_path / "made")
    before, after = load(str(original), "cpu"), load(str(tmp_path / "made"), "cpu")
    codes = before.sample(3, seed=1)
    with torch.no_grad():
        assert torch.equal(before(codes), after(codes))
    assert before.family == after.family == published.LAYOUTS[write] == made["family"]
    assert after.verified and before.latent == after.latent
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == NAMES
    digest = hashlib.sha256((tmp_path / "made" / "model.safetensors").read_bytes()).hexdigest()
    assert made["sha256"] == after.checksum == digest
    assert made["source_sha256"] == before.checksum
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("write", published.LAYOUTS, ids=lambda write: write.__name__)
def test_a_conversion_converted_is_the_same(write, tmp_path):
    convert(str(write(tmp_path / "original")), tmp_path / "once")
    convert(str(tmp_path / "once"), tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_the_card_says_what_it_is(tmp_path):
    original = published.biggan_deep_folder(tmp_path / "original")
    made = convert(str(original), tmp_path / "made")
    assert front_matter(tmp_path / "made") == {
        "library_name": "steer",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["biggan-deep", "latent-space"],
    }
    card = (tmp_path / "made" / "README.md").read_text()
    for word in ("16 x 16", "| Latents | 12 |", "| Classes | 10 |", made["source_sha256"]):
        assert word in card
    assert str(tmp_path) not in card, "it says where somebody's folders lie"
    assert made["classes"] == 10 and made["picture"] == [3, 16, 16]


def test_a_licence_goes_from_card_to_card(tmp_path):
    convert(str(published.stylegan2(tmp_path / "original")), tmp_path / "made")
    assert front_matter(tmp_path / "made")["license"] == "cc-by-4.0"
    convert(str(tmp_path / "made"), tmp_path / "again")
    assert front_matter(tmp_path / "again")["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    "card", ["license: mit\n", "---\nlicense: [a, b]\n---\n", "---\nlicense: A B\n---\n", "\xff"]
)
def test_a_card_without_a_licence_in_front_says_nothing(card, tmp_path):
    original = published.vae(tmp_path / "original")
    (original / "README.md").write_text(card, encoding="latin-1")
    convert(str(original), tmp_path / "made")
    assert "license" not in front_matter(tmp_path / "made")


@pytest.mark.parametrize(("before", "behind"), [(0, 1 << 21), (1 << 20, 0)])
def test_only_the_beginning_of_a_card_is_read(tmp_path, before, behind):
    original = published.vae(tmp_path / "original")
    card = f"---\n{'#' * before}\nlicense: mit\n---\n{'#' * behind}"
    (original / "README.md").write_text(card)
    convert(str(original), tmp_path / "made")
    assert ("license" in front_matter(tmp_path / "made")) == (not before)


def test_a_registered_name_brings_its_licence_and_says_it(tmp_path, monkeypatch, listed):
    original = published.biggan_deep_folder(tmp_path / "original")
    known = Known(
        str(original), "biggan-deep", PictureShape(3, 16, 16), 12, "Do as you like.", "mit"
    )
    listed(generators, "wild", known)
    monkeypatch.setattr(conversion, "cached", lambda origin: False)
    said: list[str] = []
    convert("wild", tmp_path / "made", said.append)
    assert said == ["wild: Do as you like."]
    assert front_matter(tmp_path / "made")["license"] == "mit"
    assert "| Terms | Do as you like. |" in (tmp_path / "made" / "README.md").read_text()


@pytest.mark.parametrize(
    ("origin", "terms"),
    [
        ("akhaliq/jojogan-stylegan2-ffhq-config-f@v1", ("other", "akhaliq/jojogan")),
        ("justinpinkney/lhq-sg2-1024", ("mit", "justinpinkney/lhq-sg2-1024")),
        (KNOWN["stylegan3-r-ffhq"].source + "#size=1", ("other", None)),
        ("somebody/else:x.pkl", ("mit", "somebody/else")),
        ("https://somewhere/else.pkl", ("mit", None)),
    ],
)
def test_a_copy_has_the_terms_of_the_original(origin, terms, tmp_path):
    """Whatever its own card says."""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    found = conversion._terms(Source({"README.md": tmp_path / "README.md"}, origin))
    assert found["license"] == terms[0]
    assert ("base_model" in found) == bool(terms[1])
    assert found.get("base_model", "").startswith(terms[1] or "")


def test_directions_stay_behind_and_it_is_said(tmp_path):
    said: list[str] = []
    convert("sprites", tmp_path / "made", said.append)
    assert len(said) == 1 and said[0].startswith("the directions of sprites stay behind")
    assert load(str(tmp_path / "made"), "cpu").directions == {}


# --- what cannot be converted ---


class Forgetful(Generator):
    """A plugin's family whose configuration leaves out what its pictures depend on."""

    family = "forgetful"

    def __init__(self, offset: float = 0.0):
        super().__init__(LatentSpace(2), PictureShape(1, 4, 4))
        self.offset = offset
        self.weight = torch.nn.Parameter(torch.ones(1, 1, 4, 4) / 4)

    def forward(self, z):
        return self.weight.expand(len(z), -1, -1, -1) + self.offset

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        return set(checkpoint.state) == {"weight"}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Forgetful:
        return cls()


class Remembering(Forgetful):
    @property
    def config(self) -> dict:
        return {"family": "forgetful"}


@pytest.fixture
def forgetful(listed):
    listed(families, "forgetful", Forgetful)


@pytest.mark.usefixtures("forgetful")
def test_a_family_that_reads_something_else_is_noticed(tmp_path, listed):
    listed(generators, "odd", lambda: Remembering(0.25))
    with pytest.raises(InputError, match="its pictures come out different"):
        convert("odd", tmp_path / "made")
    assert not (tmp_path / "made").exists()
    listed(generators, "even", Remembering)
    assert convert("even", tmp_path / "made")["family"] == "forgetful"


def test_a_generator_made_by_code(tmp_path):
    with pytest.raises(InputError, match="blob is a generator made by code"):
        convert("blob", tmp_path / "made")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("bigan", "unknown generator 'bigan': did you mean biggan"),
        ("gone.pt", "no such file: gone.pt"),
    ],
)
def test_there_is_no_such_model(model, told, tmp_path):
    with pytest.raises(InputError, match=told):
        convert(model, tmp_path / "made")


# --- folders ---


def test_an_earlier_conversion_is_replaced(tmp_path):
    original = published.dcgan(tmp_path / "a")
    convert(str(original), tmp_path / "made")
    before = contents(tmp_path / "made")
    for model in (original, tmp_path / "made"):
        convert(str(model), tmp_path / "made", pytest.fail)
        assert before.keys() == contents(tmp_path / "made").keys()
        assert load(str(tmp_path / "made"), "cpu").family == "dcgan"
    convert(str(original), tmp_path / "made")
    assert contents(tmp_path / "made") == before


def test_a_card_that_was_edited_stays(tmp_path):
    original, made, said = published.dcgan(tmp_path / "a"), tmp_path / "made", []
    convert(str(original), made)
    written = (made / "README.md").read_text()
    mine = written.replace("as those of its source", "mine to give away")
    (made / "README.md").write_text(mine)
    for _ in range(2):
        convert(str(original), made, said.append)
        assert (made / "README.md").read_text() == mine
        assert load(str(made), "cpu").family == "dcgan"
    assert (
        said == [f"{made}/README.md was edited by somebody and stays: remove it for a new one."] * 2
    )
    (made / "README.md").unlink()
    convert(str(original), made, pytest.fail)
    assert (made / "README.md").read_text() == written


def trained(folder: Path, _: Path) -> None:
    published.vae(folder)


def another(folder: Path, original: Path) -> None:
    convert(str(original), folder)


def settings(folder: Path, _: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"mine": 1}')


def damaged(folder: Path, _: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"mine": 1')


@pytest.mark.parametrize("held", [trained, another, settings, damaged])
def test_another_model_is_left_alone(tmp_path, held):
    held(tmp_path / "made", published.dcgan(tmp_path / "a"))
    before = contents(tmp_path / "made")
    with pytest.raises(
        InputError, match=r"made holds another model|config\.json of .*damaged JSON"
    ):
        convert(str(published.disvae(tmp_path / "b")), tmp_path / "made")
    assert contents(tmp_path / "made") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "made"]


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "directions/x.safetensors"])
def test_a_folder_with_something_else_is_left_alone(name, tmp_path):
    place = tmp_path / "made" / name
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(InputError, match=f"expected an empty folder.* holds {name}"):
        convert("sprites", tmp_path / "made")
    assert place.read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "made").write_text("mine")
    with pytest.raises(InputError, match="made is a file"):
        convert("sprites", tmp_path / "made")


def test_a_place_without_permission_is_refused_before_the_work(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(folders.os, "access", lambda path, mode: asked.append(path))
    with pytest.raises(InputError, match=r"cannot write .*made: no permission"):
        convert("gone.pt", tmp_path / "a" / "made")
    assert asked == [tmp_path] and not list(tmp_path.iterdir())


def test_an_empty_folder_stays_the_same_folder(tmp_path, monkeypatch):
    """A shell may stand in it."""
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path / "made")
    convert("sprites", ".")
    assert sorted(path.name for path in Path().iterdir()) == NAMES


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    convert(str(published.vae(tmp_path / "a")), tmp_path / "made")
    before = contents(tmp_path / "made")

    def full(*_):
        raise MachineError("cannot write model.safetensors: No space left on device.")

    monkeypatch.setattr(conversion, "save_checkpoint", full)
    with pytest.raises(MachineError):
        convert(str(tmp_path / "a"), tmp_path / "made")
    assert contents(tmp_path / "made") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "made"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stopped(folder, *_):
        (folder / "model.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert("sprites", tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_between_two_files_leaves_no_weights_beside_another_configuration(
    tmp_path, monkeypatch
):
    original = published.dcgan(tmp_path / "a")
    convert(str(original), tmp_path / "made")
    replace, calls = folders.os.replace, []

    def stops(start, end):
        if Path(end).parent == tmp_path / "made":
            calls.append(end)
            if len(calls) == 2:
                raise OSError(5, "Input/output error")
        replace(start, end)

    monkeypatch.setattr(folders.os, "replace", stops)
    with pytest.raises(MachineError, match=r"cannot write .*made: Input/output error"):
        convert(str(original), tmp_path / "made")
    with pytest.raises(InputError, match="expected weights"):
        load(str(tmp_path / "made"), "cpu")
    monkeypatch.undo()
    convert(str(original), tmp_path / "made")
    assert load(str(tmp_path / "made"), "cpu").family == "dcgan"


# --- what is pulled ---


def test_no_weights_are_kept_while_files_are_copied(tmp_path, monkeypatch):
    original = published.vae(tmp_path / "original")
    files = {path.name: path for path in original.iterdir()}
    read, copied = [], []

    def read_checkpoint(source):
        checkpoint = checkpoints.read_checkpoint(source)
        read.append(weakref.ref(checkpoint))
        return checkpoint

    def write(path, data):
        copied.append((path.name, read[0]()))
        path.write_bytes(data)

    monkeypatch.setattr(sharing, "locate", lambda model: Source(files, model))
    monkeypatch.setattr(sharing, "read_checkpoint", read_checkpoint)
    monkeypatch.setattr(sharing, "write_atomically", write)
    digest = hashlib.sha256(files["model.safetensors"].read_bytes()).hexdigest()
    assert pull("u/r", tmp_path / "made")["sha256"] == digest
    assert sorted(copied) == [(name, None) for name in NAMES]
    assert contents(tmp_path / "made") == contents(original)


def test_another_model_is_not_pulled_over(tmp_path, monkeypatch):
    def pulled(original: Path) -> None:
        files = {path.name: path for path in original.iterdir()}
        monkeypatch.setattr(sharing, "locate", lambda model: Source(files, model))
        pull("u/r", tmp_path / "made")

    made = tmp_path / "made"
    convert(str(published.disvae(tmp_path / "a")), tmp_path / "other")
    pulled(published.vae(tmp_path / "b"))
    pulled(tmp_path / "b")
    before = contents(made)
    with pytest.raises(InputError, match="made holds another model"):
        pulled(tmp_path / "other")
    (made / "model.safetensors").unlink()
    with pytest.raises(InputError, match="made holds another model"):
        pulled(tmp_path / "b")
    assert contents(made).items() <= before.items()


# --- what is not pushed ---


@pytest.mark.parametrize("repo", ["name", "user/name@v1", "user/name:a.pt", "a/b/c", "user/na me"])
def test_a_place_that_is_none(repo, tiny):
    with pytest.raises(InputError, match="expected"):
        push(tiny, repo)


def test_only_folders_of_ours_are_pushed(tmp_path):
    folder = published.biggan_deep_folder(tmp_path / "theirs")
    with pytest.raises(InputError, match=r"theirs lacks model.safetensors, README.md"):
        push(folder, "user/name")


def test_damaged_weights_are_not_pushed(tmp_path):
    folder = published.vae(tmp_path / "made")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sha256": "0" * 64}))
    with pytest.raises(InputError, match="damaged or another file"):
        push(folder, "user/name")


def test_directions_of_other_weights_are_not_pushed(tmp_path, knob):
    folder = published.vae(tmp_path / "made")
    (folder / "directions").mkdir()
    (folder / "directions" / "x.safetensors").write_bytes(knob.read_bytes())
    with pytest.raises(InputError, match=r"x\.safetensors is of other weights"):
        push(folder, "user/name")


def response(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, "it says.\nA page.")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (response(403), InputError, r"refuses u/r \(HTTP 403\): expected a login"),
        (response(413), InputError, "does not take u/r: it says."),
        (response(500), MachineError, "cannot push u/r to the Hub: it says."),
        (
            ValueError("Invalid metadata in README.md.\n- x"),
            InputError,
            "Invalid metadata in README",
        ),
        (json.JSONDecodeError("Expecting value", "<html>", 0), MachineError, "cannot push u/r"),
        (ConnectionError(), MachineError, "cannot push u/r to the Hub: ConnectionError."),
    ],
)
def test_what_an_upload_may_meet_is_one_sentence(error, kind, told):
    failures = hub_failures(lambda error: sharing._refusal("u/r", error))
    with pytest.raises(kind, match=told) as raised, failures:
        raise error
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


@pytest.mark.shared
@pytest.mark.parametrize("place", ["dcgan-faces/weights.tar", "disvae/btcvae_celeba"])
def test_trained_models_of_others(shared, place, tmp_path):
    original = shared / "data" / "generators" / place
    convert(str(original), tmp_path / "made")
    before, after = load(str(original), "cpu"), load(str(tmp_path / "made"), "cpu")
    codes = before.sample(4, seed=2)
    with torch.no_grad():
        assert torch.equal(before(codes), after(codes))
