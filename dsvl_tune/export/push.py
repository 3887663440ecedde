"""Send a checkpoint or an adapter to the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dsvl_tune.core.checkpoint.hub import TOKEN, error_chain
from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import format_bytes
from dsvl_tune.export.private_paths import private_paths
from dsvl_tune.models.finetuning.adapter_readme import readme_with_base

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin")
"""Files in a repository that a push replaces: old shards next to new ones would be loaded."""
ADAPTER_CONFIGS = ("adapter_config.json", "dsvl_adapter_config.json")


class Pushed(NamedTuple):
    """What was sent.

    Attributes:
        url: Of the commit.
        files: Number of files.
        size: Of all files in bytes.
    """

    url: str
    files: int
    size: int


def folder_to_push(source: Path, adapter: bool) -> Path:
    """Find what is to be sent.

    Args:
        source: Folder of a run or of a checkpoint.
        adapter: Whether the adapter of a run is wanted, and not the merged checkpoint.

    Raises:
        UserError: There is no such thing in the folder.
    """
    is_run = (source / "config.yaml").is_file()
    folder = source / ("adapter" if adapter else "merged") if is_run else source
    if adapter:
        if any((folder / name).is_file() for name in ADAPTER_CONFIGS):
            return folder
        raise UserError(f"{folder}: holds no adapter. Give the folder of a finished run.")
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return folder
    if is_run:
        raise UserError(
            f"{source}: the run is not merged. Run dsvl-tune merge {source} first (with --out, "
            "push that folder), or give --adapter true to send the adapter alone."
        )
    raise UserError(
        f"{source}: no config.json with weights next to it. Give the folder of a run, or of a "
        "checkpoint that dsvl-tune has merged or converted."
    )


@contextmanager
def with_base(folder: Path, base: str | None) -> Iterator[Path]:
    """Yield the folder of an adapter whose files name another base.

    Args:
        folder: Of an adapter.
        base: Name to write for the base; None yields the folder itself.
    """
    if base is None:
        yield folder
        return
    with TemporaryDirectory() as name:
        copy = Path(shutil.copytree(folder, Path(name) / folder.name))
        configs = [copy / name for name in ADAPTER_CONFIGS if (copy / name).is_file()]
        for config in configs:
            named = str(read_json(config).get("base_model_name_or_path"))
            for file in (config, copy / "README.md"):
                if file.is_file():
                    text = file.read_text(encoding="utf-8").replace(named, base)
                    if file != config:
                        text = readme_with_base(text, base)
                    file.write_text(text, encoding="utf-8")
        yield copy


def check_paths(folder: Path) -> None:
    """Raise if a card or a settings file has paths of this machine.

    Args:
        folder: To send.

    Raises:
        UserError: The message names some of them.
    """
    found = list(private_paths(files_to_send(folder)))
    if not found:
        return
    named = "; ".join(f"{one.file.name}, line {one.line}: {one.path}" for one in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise UserError(
        f"{folder}: paths of this machine would be published ({named}{more}). Merge without "
        "--paths true; for an adapter, name its base on the hub by --base OWNER/NAME; or send them "
        "all the same with --allow_paths true."
    )


def files_to_send(folder: Path) -> list[Path]:
    """List the files of a folder that are sent: all but hidden ones.

    Args:
        folder: To send.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def push_folder(
    folder: Path,
    repository: str,
    *,
    revision: str | None = None,
    create: bool = False,
    private: bool = True,
    message: str | None = None,
) -> Pushed:
    """Send a folder in one commit; weights that the repository had are replaced.

    Args:
        folder: To send.
        repository: OWNER/NAME.
        revision: Branch; None is the main one.
        create: Whether to make the repository and the branch if they do not exist.
        private: Whether a repository that is made is private.
        message: Of the commit.

    Raises:
        UserError: The hub refused it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    if repository.count("/") != 1 or "@" in repository:
        raise UserError(f"{repository}: expected OWNER/NAME, e.g. my-name/my-model.")
    files = files_to_send(folder)
    api = HfApi()
    try:
        if create:
            api.create_repo(repository, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message or "Upload by dsvl-tune",
            ignore_patterns=[".*", "**/.*"],
            delete_patterns=list(WEIGHTS),
        )
    except Exception as error:  # any: the errors of the client's transport have no common class
        raise push_error(repository, revision, error) from error
    return Pushed(str(commit.commit_url), len(files), sum(path.stat().st_size for path in files))


def push_error(repository: str, revision: str | None, error: Exception) -> UserError:
    """The message for a push that failed: the hub's own line, and what to do.

    Args:
        repository: OWNER/NAME.
        revision: Branch that was asked for.
        error: That the client raised.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    causes = list(error_chain(error))
    said: Any = next((text for one in causes if (text := getattr(one, "server_message", None))), "")
    said = said or next((line for line in str(causes[-1]).splitlines() if line.strip()), "")
    statuses = {getattr(getattr(one, "response", None), "status_code", None) for one in causes}
    if any(isinstance(one, RevisionNotFoundError) for one in causes):
        advice = f"It has no branch {revision}: --create true makes it."
    elif any(isinstance(one, RepositoryNotFoundError) for one in causes):
        advice = f"If it does not exist, --create true makes it; if it is private, {TOKEN}."
    elif statuses & {401, 403}:
        advice = f"You need a token that may write there: {TOKEN}."
    else:
        advice = "Check the network and run the command again, which sends what is missing."
    return UserError(
        f"{repository}: the Hugging Face hub did not take it "
        f"({type(causes[-1]).__name__}: {said}). {advice}"
    )


def size_text(pushed: Pushed) -> str:
    """What was sent, in a few words."""
    return f"{pushed.files} files, {format_bytes(pushed.size)}"
