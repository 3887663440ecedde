"""The Dockerfile copies what the build of the package needs, and what is copied is not ignored."""

from __future__ import annotations

import re
from pathlib import Path

from test_wheel import PARTS

ROOT = Path(__file__).parents[2]


def test_the_image_has_every_part_of_the_package() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        name
        for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    }
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert copied == kept == {*PARTS, "constraints.txt"}
    extras = re.search(r'"\.\[([\w,]+)\]"', text)
    assert extras is not None
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in project for extra in extras[1].split(","))
