"""A checkpoint damaged in a few hundred ways is refused each time.

That is: exit code 2, one message, no traceback, no target. One kind of damage is left out, because
nothing can detect it: other finite values in a checkpoint without hashes.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from damages import EVERYWHERE, ORIGINAL, TRANSFORMERS, Damage, flip
from safetensors.torch import load_file, save_file

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint.checksums import SUMS, write_sums
from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS_INDEX
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.weights import Weights

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = range(6)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Intact checkpoints: original layout in one file, transformers' in two, one with hashes."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(GOLDEN / "siglip" / "checkpoint", root / "original")
    weights = Weights(open_checkpoint(root / "original"))
    for name in ("transformers", "hashed"):
        (root / name).mkdir()
        merge_into(weights, {}, root / name, "transformers", None)
    write_sums(root / "hashed")
    tensors = list(load_file(root / "transformers" / "model.safetensors").items())
    (root / "transformers" / "model.safetensors").unlink()
    places = {}
    for number in (1, 2):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file(
            dict(tensors[number - 1 :: 2]), root / "transformers" / shard, metadata={"format": "pt"}
        )
        places |= dict.fromkeys(dict(tensors[number - 1 :: 2]), shard)
    (root / "transformers" / WEIGHTS_INDEX).write_text(
        json.dumps({"weight_map": places}), encoding="utf-8"
    )
    return {path.name: path for path in root.iterdir()}


def convert(source: Path, target: Path, patch: pytest.MonkeyPatch) -> int:
    """The exit code of the command."""
    patch.setattr(
        sys, "argv", ["dsvl-tune", "convert", str(source), str(target), "--to", "original"]
    )
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


CASES = [
    *(("original", name, damage) for name, damage in {**EVERYWHERE, **ORIGINAL}.items()),
    *(("transformers", name, damage) for name, damage in {**EVERYWHERE, **TRANSFORMERS}.items()),
]


def assert_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, case: str
) -> None:
    target = folder.parent / "target"
    capsys.readouterr()
    assert convert(folder, target, patch) == 2, f"{case}: silent success"
    error = capsys.readouterr().err
    assert "Traceback" not in error and "dsvl-tune: error: " in error, case
    assert not target.exists() and not target.with_name(".target.partial").exists(), case


@pytest.mark.parametrize(
    ("form", "name", "damage"), CASES, ids=[f"{form}: {name}" for form, name, _ in CASES]
)
def test_damage_is_refused(
    form: str,
    name: str,
    damage: Damage,
    originals: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in SEEDS:
        folder = Path(shutil.copytree(originals[form], tmp_path / "copy"))
        damage(folder, random.Random(f"{name} {seed}"))
        assert_refused(folder, capsys, monkeypatch, f"{form}, {name}, seed {seed}")
        shutil.rmtree(folder)


def test_any_flipped_bit_in_what_we_wrote_is_found(
    originals: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = sorted(
        path.relative_to(originals["hashed"])
        for path in originals["hashed"].rglob("*")
        if path.is_file()
    )
    assert Path(SUMS) in files
    for seed, file in enumerate([*files, *[Path("model.safetensors")] * 20, *[Path(SUMS)] * 20]):
        folder = Path(shutil.copytree(originals["hashed"], tmp_path / "copy"))
        flip(folder / file, 0, (folder / file).stat().st_size, random.Random(seed))
        assert_refused(folder, capsys, monkeypatch, f"{file}, seed {seed}")
        shutil.rmtree(folder)


def test_undamaged_ones_are_not_refused(
    originals: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form, folder in originals.items():
        assert convert(folder, tmp_path / form, monkeypatch) == 0
