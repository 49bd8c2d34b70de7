"""Published generators by name: where their weights lie and on which terms, as data alone."""

from __future__ import annotations

from dataclasses import dataclass

from steer.generators.base import PictureShape


@dataclass(frozen=True)
class Known:
    """Weights that somebody published.

    `source` is what `--model` would be, a Hub id or a URL; `latents` the numbers of z; `licence`
    one sentence for whoever uses them first, and `licence_id` what the Hub calls that licence.

    >>> KNOWN["biggan"].source, KNOWN["biggan"].picture.height
    ('osanseviero/BigGAN-deep-128', 128)
    """

    source: str
    family: str
    picture: PictureShape
    latents: int
    licence: str
    licence_id: str = "other"


# --- BigGAN-deep, as huggingface/pytorch-pretrained-BigGAN published it ---

_S3 = "https://s3.amazonaws.com/models.huggingface.co/biggan"
_BIGGAN_SOURCES = {
    128: "osanseviero/BigGAN-deep-128",
    256: f"{_S3}/biggan-deep-256-pytorch_model.bin"
    "#sha256=5900ef4065047e3aa0d1b66197b7f2664dceb59b27080e414ad57e203c485bc5&size=234411737",
    512: f"{_S3}/biggan-deep-512-pytorch_model.bin",
}
# DeepMind's page of these modules (tfhub.dev, archived in 2024) names no licence
_BIGGAN_LICENCE = (
    "Weights of DeepMind's TensorFlow Hub modules, trained on ImageNet, as Hugging Face converted "
    "them: no licence is published for them, only for the conversion's code (MIT)."
)


def _biggan(side: int) -> Known:
    picture = PictureShape(3, side, side)
    return Known(_BIGGAN_SOURCES[side], "biggan-deep", picture, 128, _BIGGAN_LICENCE)


# --- StyleGAN2 and 3, as the README of NVlabs/stylegan3 lists them ---

_NVIDIA_LICENCE = (
    "Trained by NVIDIA: their Source Code License allows research and evaluation only, no "
    "commercial use, wherever the weights are copied from."
)
_NVIDIA_FILES = {
    "stylegan2-ffhq-256": "stylegan2-ffhq-256x256",
    "stylegan2-ffhq-512": "stylegan2-ffhq-512x512",
    "stylegan2-afhqcat": "stylegan2-afhqcat-512x512",
    "stylegan2-afhqdog": "stylegan2-afhqdog-512x512",
    "stylegan2-afhqwild": "stylegan2-afhqwild-512x512",
    "stylegan2-afhqv2": "stylegan2-afhqv2-512x512",
    "stylegan2-metfaces": "stylegan2-metfaces-1024x1024",
    "stylegan2-cifar10": "stylegan2-cifar10-32x32",
    "stylegan3-t-ffhq": "stylegan3-t-ffhq-1024x1024",
    "stylegan3-t-ffhqu-256": "stylegan3-t-ffhqu-256x256",
    "stylegan3-t-metfaces": "stylegan3-t-metfaces-1024x1024",
    "stylegan3-t-afhqv2": "stylegan3-t-afhqv2-512x512",
    "stylegan3-r-ffhq": "stylegan3-r-ffhq-1024x1024",
    "stylegan3-r-ffhqu-256": "stylegan3-r-ffhqu-256x256",
    "stylegan3-r-metfaces": "stylegan3-r-metfaces-1024x1024",
    "stylegan3-r-afhqv2": "stylegan3-r-afhqv2-512x512",
}


def _nvidia(file: str) -> Known:
    family, side = file.split("-")[0], int(file.rpartition("x")[2])
    url = f"https://api.ngc.nvidia.com/v2/models/nvidia/research/{family}/versions/1/files/{file}"
    return Known(f"{url}.pkl", family, PictureShape(3, side, side), 512, _NVIDIA_LICENCE)


def _square(source: str, family: str, side: int, licence: str, licence_id: str = "other") -> Known:
    return Known(source, family, PictureShape(3, side, side), 512, licence, licence_id)


_BIGGANS = {side: _biggan(side) for side in _BIGGAN_SOURCES}
_PINKNEY_LICENCE = "Trained by Justin Pinkney on LHQ landscapes: MIT by its card on the Hub."

#: What `--model` finds by name, besides the generators that are installed.
KNOWN: dict[str, Known] = {
    "biggan": _BIGGANS[128],
    **{f"biggan-{side}": known for side, known in _BIGGANS.items()},
    **{f"biggan-deep-{side}": known for side, known in _BIGGANS.items()},
    "stylegan2-ffhq": _square(
        "akhaliq/jojogan-stylegan2-ffhq-config-f:stylegan2-ffhq-config-f.pt",
        *("stylegan2", 1024, _NVIDIA_LICENCE),
    ),
    "stylegan2-lhq": _square(
        "justinpinkney/lhq-sg2-1024:lhq-sg2-1024.pkl", "stylegan2", 1024, _PINKNEY_LICENCE, "mit"
    ),
    "stylegan3-t-lhq-256": _square(
        "justinpinkney/stylegan3-t-lhq-256:lhq-256-stylegan3-t-25Mimg.pkl",
        *("stylegan3", 256, _PINKNEY_LICENCE, "mit"),
    ),
    **{name: _nvidia(file) for name, file in _NVIDIA_FILES.items()},
}
