"""Makes the pictures of docs/gallery.md by running the examples, and keeps them small.

make gallery
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
WIDTH, COLOURS = 800, 64

# name: (what is run in the repository's root, the picture that it writes)
EXHIBITS = {
    "vocoder": (
        "examples/vocoder_upsampler.py --native-seconds 0",
        "build/vocoder/vocoder.png",
    ),
    "griffin_lim": (
        "examples/istft_vocoder.py",
        "build/griffin_lim/griffin_lim.png",
    ),
    "training": (
        "examples/train_upsampler.py --restart",
        "build/upsampler/loss.png",
    ),
    "streaming": (
        "examples/stream_vocoder.py --variant v3 --chunk-ms 93",
        "build/stream/latency.png",
    ),
}


def shrunk(source: Path, target: Path) -> None:
    """At most `WIDTH` wide, in few colours: plots need no more."""
    picture = Image.open(source).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
    picture.quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    (DOCS / "gallery").mkdir(exist_ok=True)
    for name, (command, picture) in EXHIBITS.items():
        subprocess.run([sys.executable, *command.split()], cwd=DOCS.parent, check=True)
        shrunk(DOCS.parent / picture, DOCS / "gallery" / f"{name}.png")


if __name__ == "__main__":
    main()
