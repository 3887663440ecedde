"""The wheel: everything is inside, and it works in a fresh environment, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("dsvl_tune", "datamodules", "recipes", "pyproject.toml", "README.md", "LICENSE")


def run(command: list[str | Path], cwd: Path) -> str:
    """The output of a command that must succeed; the checkout is not on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out], source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; dependencies are those of the running environment."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel],
        folder,
    )
    site = Path(
        run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder
        ).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def test_every_file_of_the_package_is_inside(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = [path.relative_to(ROOT) for path in (ROOT / "dsvl_tune").rglob("*") if path.is_file()]
    mounted = [
        path.relative_to(ROOT)
        for room in ("datamodules", "recipes")
        for path in (ROOT / room).rglob("*.*")
    ]
    expected = {
        *(str(path) for path in kept if "__pycache__" not in path.parts),
        *(f"dsvl_tune/{path}" for path in mounted if "__pycache__" not in path.parts),
    }
    assert expected - packed == set()
    assert not [name for name in packed if not name.startswith(("dsvl_tune/", "dsvl_tune-"))]


def test_fonts_weights_and_recipes_are_inside(wheel: Path) -> None:
    packed = zipfile.ZipFile(wheel).namelist()
    for name in (
        "dsvl_tune/demo/fonts/DejaVuSans.ttf",
        "dsvl_tune/demo/embedded/model.safetensors",
        "dsvl_tune/demo/embedded/tokenizer.json",
        "dsvl_tune/recipes/charts_lora.yaml",
        "dsvl_tune/recipes/data/chartqa.yaml",
        "dsvl_tune/py.typed",
    ):
        assert name in packed


def test_a_recipe_by_name_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    """Away from the checkout, recipe, data modules and command come from the wheel."""
    script = environment / "bin" / "dsvl-tune"
    printed = run([script, "fit", "--config", "charts_lora", "--print_config"], tmp_path)
    assert "class_path: dsvl_tune.datamodules.ChartsDataModule" in printed
    assert "checkpoint: embedded" in printed
    assert list(tmp_path.iterdir()) == []
    where = (
        "import dsvl_tune.datamodules as d; print(d.ConversationDataModule.__module__, d.__file__)"
    )
    module, file = run([environment / "bin" / "python", "-c", where], tmp_path).split()
    assert module == "dsvl_tune.datamodules.base"
    assert Path(file).is_relative_to(environment)


def test_the_first_steps_of_the_readme_from_an_empty_folder(
    environment: Path, tmp_path: Path
) -> None:
    script = environment / "bin" / "dsvl-tune"
    run([script, "examples", "--name", "chart"], tmp_path)
    question = ["--image", "chart.png", "--prompt", "What is the value of the red bar?"]
    assert run([script, "chat", "--model", "embedded", *question], tmp_path).strip()
