"""The command line as a whole: help, start-up, exit statuses, streams, real processes and pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from commands import Steer, latents_of, photo, refused, z_of
from PIL import Image

from steer.cli import app

COMMAND = typer.main.get_command(app)
NAMES = sorted(COMMAND.commands)  # type: ignore[attr-defined]
STEER = str(Path(sys.executable).parent / "steer")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


# --- help and documentation ---


def test_the_commands_are_those_of_the_issue() -> None:
    assert NAMES == [
        "bench",
        "compare",
        "convert",
        "decompose",
        "embed",
        "evaluate",
        "fit-direction",
        "fit-encoder",
        "invert",
        "models",
        "pull",
        "push",
        "render",
        "sample",
        "score",
        "show",
        "train-avae",
        "train-vae",
        "trajectories",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example_and_explains_every_option(steer: Steer, name: str) -> None:
    ended = steer(name, "--help")
    assert ended.status == 0 and ended.err == ""
    assert f"Example: steer {name}" in ended.out.decode() or "| steer" in ended.out.decode()
    command = COMMAND.commands[name]  # type: ignore[attr-defined]
    assert all(getattr(option, "help", None) for option in command.params)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_mentions_every_command(name: str) -> None:
    readme = Path(__file__).parents[1] / "README.md"
    assert f"steer {name}" in readme.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_in_the_help_are_understood(name: str) -> None:
    """Every option that an example names is one of its command's."""
    words = " ".join((COMMAND.commands[name].help or "").split())  # type: ignore[attr-defined]
    examples = re.findall(r"steer ([a-z-]+)((?: [^|>]*)?)", words.split("Example:")[1])
    assert examples
    for command, rest in examples:
        known = {o for p in COMMAND.commands[command].params for o in p.opts}  # type: ignore[attr-defined]
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", rest)) <= known


def test_nothing_said_is_help(steer: Steer) -> None:
    assert steer().out == steer("--help").out
    assert steer("--version").out.startswith(b"steer ")


@pytest.mark.parametrize("arguments", [["--help"], ["smaple"], ["render", "--help"]])
def test_start_up_is_fast_and_does_not_import_torch(arguments: list[str]) -> None:
    """The best of three, as the machine may be busy."""
    program = (
        "import sys, resource; sys.argv[0] = 'steer'\n"
        "from steer.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich.progress'} & set(sys.modules)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, sorted(heavy), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
        )
        spent, heavy = run.stderr.splitlines()[-1].split(" ", 1)
        assert heavy == "[]"
        seconds.append(float(spent))
    assert min(seconds) < 0.3


# --- errors ---


def test_a_mistyped_command_lists_near_matches(steer: Steer) -> None:
    refused(steer("smaple"), "smaple", "sample")


def test_debug_shows_the_traceback(steer: Steer) -> None:
    ended = steer("show", "no.safetensors", "--debug")
    assert ended.status == 2
    assert ended.err.startswith("Traceback") and "disk_error" in ended.err
    assert ended.err.splitlines()[-1] == "steer: " + ended.err.splitlines()[-1].split(": ", 1)[1]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_out_of_memory_is_the_machines_fault(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from steer import generators

    def fails(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(generators, "load", fails)
    refused(steer("sample"), "out of memory", status=1)


def test_a_bug_is_not_hidden(steer: Steer, monkeypatch: pytest.MonkeyPatch) -> None:
    from steer import generators

    def fails(*arguments: object, **settings: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(generators, "load", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        steer("sample")


def test_out_of_memory_on_a_batch_halves_it(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import toys

    draw = toys.Blob.forward

    def small(self: toys.Blob, z: object) -> object:
        if len(z) > 2:  # type: ignore[arg-type]
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return draw(self, z)  # type: ignore[arg-type]

    z = latents_of("blob", 5, tmp_path / "z.safetensors")
    monkeypatch.setattr(toys.Blob, "forward", small)
    ended = steer("render", z, "--batch", 4, "-o", tmp_path / "out.png")
    assert ended.status == 0
    assert ended.err == "steer: out of memory; going on with batches of 2.\n"


# --- where things go ---


@pytest.mark.parametrize(
    "arguments", [["sample"], ["invert", "PICTURE"], ["fit-direction"], ["trajectories"]]
)
def test_no_artefact_replaces_a_picture(steer: Steer, tmp_path: Path, arguments: list[str]) -> None:
    picture = photo(tmp_path / "a.png")
    before = picture.read_bytes()
    arguments = [str(picture) if word == "PICTURE" else word for word in arguments]
    refused(steer(*arguments, "-o", picture), f"{picture}")
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "default"),
    [
        (["sample", "--model", "blob"], "latents.safetensors"),
        (["render", "--model", "blob"], "render.png"),
    ],
)
def test_on_a_terminal_there_is_a_default_file(
    steer: Steer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    default: str,
) -> None:
    from steer.cli import options

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "is_terminal", lambda stream: stream is sys.stdout)
    ended = steer(*arguments)
    assert (ended.status, ended.out, ended.err) == (0, b"", f"steer: writing {default}\n")
    assert [path.name for path in tmp_path.iterdir()] == [default]


def test_a_bar_on_a_terminal_goes_to_stderr(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    from steer.cli import progress

    monkeypatch.setattr(progress, "is_terminal", lambda stream: stream is sys.stderr)
    run = ("trajectories", "--model", tiny, "--starts", 2, "--points", 2, "--steps", 2)
    loud = steer(*run, "-o", tmp_path / "a.safetensors")
    assert loud.out == b"" and "following translate-x" in loud.err and "4/4" in loud.err
    assert steer(*run, "-o", tmp_path / "b.safetensors", "--quiet").err == ""


# --- real processes ---


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [STEER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=ONE_THREAD, **options)  # type: ignore[call-overload]


def test_three_commands_over_real_pipes(tiny: Path, tmp_path: Path) -> None:
    """Samples are followed, fitted and rendered: `a | b > file`, then `c | d -`."""
    d, moved = tmp_path / "d.safetensors", tmp_path / "moved.png"
    script = (
        "set -e -o pipefail\n"
        f"{STEER} trajectories --model {tiny} -t brightness --starts 8 --points 2 --steps 5 "
        f"| {STEER} fit-direction --trajectories - --samples 8 -o - > {d}\n"
        f"{STEER} sample --model {tiny} -n 4 "
        f"| {STEER} render --direction {d} --shift brightness=0.01 - > {moved}\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert Image.open(moved).format == "PNG"


def test_a_photo_through_a_pipe(tiny: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "photo.png")
    script = (
        "set -o pipefail\n"
        f"{STEER} invert --model {tiny} --steps 3 {picture} | tee z.safetensors "
        f"| {STEER} render - > moved.png"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=ONE_THREAD, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert z_of(tmp_path / "z.safetensors").shape == (1, 3)
    assert Image.open(tmp_path / "moved.png").format == "PNG"


def test_a_reader_that_goes_away_is_no_traceback(tiny: Path) -> None:
    script = f"{STEER} sample --model {tiny} -n 20000 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=ONE_THREAD)
    assert done.returncode == 1
    assert done.stderr == b"steer: standard output was closed before everything was written.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [STEER, "models", "--json"], stdout=full, stderr=subprocess.PIPE, env=ONE_THREAD
        )
    assert done.returncode == 1
    assert done.stderr == b"steer: cannot write standard output: No space left on device.\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_process_with_one_sentence(
    tiny: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    out = tmp_path / "t.safetensors"
    process = subprocess.Popen(
        [STEER, "trajectories", "--model", tiny, "--starts", "9999", "--shard", "1", "-o", out],
        stderr=subprocess.PIPE,
        env=ONE_THREAD,
    )
    parts = Path(f"{out}.parts")
    until = time.monotonic() + 60
    while not list(parts.glob("*.safetensors")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said.decode() == (
        f"steer: interrupted; what was done lies in {parts}, --resume goes on with it.\n"
    )
    assert not list(parts.glob(".*")) and not out.exists()


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot fetch nobody/nothing"),
    ],
)
def test_no_network(environment: dict[str, str], word: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [STEER, "sample", "--model", "nobody/nothing"],
        capture_output=True,
        text=True,
        env={**ONE_THREAD, "HF_HOME": str(tmp_path), **environment},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "nobody/nothing" in done.stderr and word in done.stderr


def test_a_hub_id_that_does_not_exist(steer: Steer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    def missing(*arguments: object, **options: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(HfApi, "model_info", missing)
    refused(steer("sample", "--model", "nobody/nothing"), "nobody/nothing is not on the Hub")


# those that need a Hub or a network's weights are tested in test_cli_hub and test_cli_score
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("push", "pull", "score")])
def test_json_is_one_object_and_nothing_else(
    steer: Steer, tiny: Path, knob: Path, tmp_path: Path, name: str, monkeypatch
) -> None:
    monkeypatch.setattr("steer.training.loop.EXPORT_PICTURES", 32)
    z = latents_of("blob", 2, tmp_path / "z.safetensors")
    small, out = ("--starts", 4, "--points", 2, "--steps", 2), tmp_path / "out.safetensors"
    picture = photo(tmp_path / "a.png")
    arguments = {
        "bench": ("--model", tiny, "--steps", 4),
        "compare": (
            "-t",
            "brightness",
            "--methods",
            "pca",
            "--model",
            tiny,
            "--samples",
            8,
            "-n",
            8,
        ),
        "convert": (tiny, "-o", tmp_path / "converted"),
        "decompose": ("--train", "scenes", "--steps", 1, "--batch", 2, "-o", tmp_path / "scenes"),
        "embed": ("sprites", "sprites-grey", "-n", 10, "--model", tiny),
        "evaluate": ("-d", knob, "--model", "blob", "-n", 8, "--values", "0"),
        "fit-direction": (*small, "--model", "blob", "--samples", 4, "-o", out),
        "fit-encoder": ("--model", tiny, "--backbone", "test_resnet", "--steps", 1, "--batch", 2),
        "invert": (picture, "--model", tiny, "--steps", 2, "-o", out),
        "models": (),
        "render": (z, "-o", tmp_path / "out.png"),
        "sample": ("--model", tiny, "-o", out),
        "show": (z,),
        "train-avae": ("--steps", 1, "--batch", 2, "--width", 2, "-o", tmp_path / "avae"),
        "train-vae": ("--steps", 1, "--batch", 2, "--widths", "4,4", "-o", tmp_path / "vae"),
        "trajectories": (*small, "--model", tiny, "-o", out),
    }[name]
    ended = steer(name, *arguments, "--json")
    assert ended.status == 0, ended.err
    assert ended.out.count(b"\n") == 1
    assert isinstance(json.loads(ended.out), dict)
