"""Is what would be published what users need? A wheel and an sdist, looked at and used.

    python -m tests.campaigns.release build/dist

The wheel must hold the package, all of it and nothing else. Then it is installed into an empty
environment outside of the repository, and used there: the README's blocks, `explain`, `doctor`.
`make dist` builds both first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import polyconv
from tests.support.snippets import ROOT, snippets

EXPLAIN = ["explain", "conv_transpose1d", "--input", "1,128,512", "--weight", "256,16,512"]
# What a change needs that is made from an sdist.
IN_SDIST = ("pyproject.toml", "Makefile", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md")


def package_files(root: Path = ROOT) -> set[str]:
    """What the package consists of."""
    found = [*(root / "polyconv").rglob("*.py"), root / "polyconv" / "py.typed"]
    return {path.relative_to(root).as_posix() for path in found}


def wheel_faults(wheel: Path, root: Path = ROOT, version: str = polyconv.__version__) -> list[str]:
    """What a wheel lacks, and what it should not hold."""
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
        metadata = next((name for name in about if name.endswith("/METADATA")), None)
        told = file.read(metadata).decode() if metadata else ""
    inside, needed = names - about, package_files(root)
    faults = [f"lacks {name}" for name in sorted(needed - inside)]
    faults += [f"holds {name}" for name in sorted(inside - needed)]
    if f"\nVersion: {version}\n" not in told:
        faults.append(f"is not of version {version}")
    for name in ("entry_points.txt", "licenses/LICENSE"):
        if not any(each.endswith(f"/{name}") for each in about):
            faults.append(f"lacks {name}")
    return faults


def sdist_faults(sdist: Path, root: Path = ROOT) -> list[str]:
    """What an sdist lacks."""
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    return [f"lacks {name}" for name in sorted({*package_files(root), *IN_SDIST} - names)]


def use(wheel: Path) -> None:
    """Installs a wheel into an empty environment and does there what a new user does."""
    extra = "[cpu]" if sys.platform == "linux" else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bin = folder / "venv" / "bin"
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "POLYCONV"))}

        def do(*words: str) -> None:
            print("$", *words, flush=True)
            subprocess.run(words, check=True, cwd=folder, env=environ)

        do(sys.executable, "-m", "venv", str(folder / "venv"))
        pip = [str(bin / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        do(*pip, f"{wheel.resolve()}{extra}")
        blocks = [each for each in snippets(ROOT / "README.md", "python") if not each.why_not]
        (folder / "readme.py").write_text("\n".join(each.text for each in blocks))
        do(str(bin / "polyconv"), "run", "--quiet", "readme.py")
        plot = ["--stride", "8", "--device", "m2", "--plot", "call.svg"]
        do(str(bin / "polyconv"), *EXPLAIN, *plot)
        do(str(bin / "polyconv"), "doctor")
        where = "import polyconv, sys; sys.exit(sys.prefix not in polyconv.__file__)"
        do(str(bin / "python"), "-c", where)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    faults = [f"{wheel.name} {each}" for each in wheel_faults(wheel)]
    faults += [f"{sdist.name} {each}" for each in sdist_faults(sdist)]
    print("\n".join(faults or [f"{wheel.name} and {sdist.name} hold what they must"]), flush=True)
    if not faults:
        use(wheel)
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main())
