"""Checkpoints on the Hugging Face hub: names with revisions, downloads, and what can go wrong.

The endpoint, the cache and the token are huggingface_hub's own (HF_ENDPOINT, HF_HUB_CACHE,
HF_TOKEN). It resumes a connection that breaks where it broke, a few times; after that, the next
command downloads the files that are not complete.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import SUMS
from dsvl_tune.core.terminal import escape

if TYPE_CHECKING:
    from huggingface_hub.utils import SafetensorsFileMetadata

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*", "*.md", SUMS)
Kind = Literal["model", "dataset"]
TOKEN = "log in with `hf auth login`, or set HF_TOKEN"


class HubName(NamedTuple):
    """A checkpoint on the hub.

    Attributes:
        repository: owner/name.
        revision: branch, tag or commit; None is the repository's main branch.
    """

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def hub_name(name: str) -> HubName | None:
    """The parts of a name that can only be one on the hub; None for any other name.

    Args:
        name: owner/name or owner/name@revision, where there is no such folder.
    """
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "~", "/")) or Path(name).exists():
        return None
    return HubName(repository, revision or None)


def with_revision(name: str, revision: str | None) -> str:
    """The name of a checkpoint whose revision is given apart from it, by `model.revision`.

    Args:
        name: of the checkpoint: "embedded", a folder or a hub name.
        revision: branch, tag or commit; None leaves the name as it is.

    Raises:
        UserError: the checkpoint is not on the hub, or its name has another revision.
    """
    if revision is None:
        return name
    found = hub_name(name)
    if found is None:
        raise UserError(
            f"model.revision {revision}: only a checkpoint on the hub (OWNER/NAME) has revisions, "
            f"and model.checkpoint is {name}. Leave model.revision out."
        )
    if found.revision not in (None, revision):
        raise UserError(
            f"model.revision {revision}: model.checkpoint is {name}, another revision. Give one."
        )
    return str(found._replace(revision=revision))


def is_hub_name(name: str) -> bool:
    """Whether a name can only be one on the hub: owner/name, and no such folder."""
    return hub_name(name) is not None


def public_name(base: str) -> str:
    """The name of a base checkpoint that others may read: of a folder, only its own name.

    Args:
        base: "embedded", a hub name or a folder.
    """
    return str(on_hub) if (on_hub := hub_name(base)) is not None else Path(base).name


@cache
def download_checkpoint(name: HubName, patterns: tuple[str, ...] = HUB_FILES) -> Path:
    """Folder with the files of a checkpoint on the hub; asked for once a process.

    Args:
        name: on the hub.
        patterns: of the files' names.

    Raises:
        UserError: the hub does not give them.
    """
    note_new_name(name)
    return _snapshot(name, patterns)


@cache
def download_data_set(name: HubName, patterns: tuple[str, ...]) -> Path:
    """Folder with some files of a data set on the hub; asked for once a process.

    Args:
        name: on the hub.
        patterns: of the files' names.

    Raises:
        UserError: the hub does not give them.
    """
    return _snapshot(name, patterns, "dataset")


def _snapshot(name: HubName, patterns: tuple[str, ...], kind: Kind = "model") -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name.repository,
            repo_type=kind,
            revision=name.revision,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # any: the errors of the client's transport have no common class
        raise hub_error(name, error, kind) from error
    return Path(found)


@cache
def fetch_config(name: HubName) -> Path:
    """Folder with config.json alone of a checkpoint on the hub; asked for once a process.

    Raises:
        UserError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    try:
        note_new_name(name)
        config = hf_hub_download(name.repository, "config.json", revision=name.revision)
        return Path(config).parent
    except Exception as error:  # any: as above
        raise hub_error(name, error) from error


@cache
def fetch_headers(name: HubName, pickled: bool) -> Mapping[str, SafetensorsFileMetadata]:
    """Headers of the weight files of a checkpoint on the hub, by file; asked for once a process.

    Args:
        name: on the hub.
        pickled: whether its weights may be in pickles, which have none.

    Raises:
        UserError: the hub does not give them.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        found = HfApi().get_safetensors_metadata(name.repository, revision=name.revision)
    except Exception as error:  # any: as above
        if pickled and isinstance(error, NotASafetensorsRepoError):
            return {}
        raise hub_error(name, error) from error
    return found.files_metadata


@cache
def note_new_name(name: HubName) -> None:
    """Print the new name of a repository that was renamed, which the old one still finds.

    The old one is kept: what is in the cache under it is not downloaded again.
    """
    from huggingface_hub import HfApi

    try:
        current = HfApi().model_info(name.repository, revision=name.revision).id
    except Exception:  # any: the download that follows has it from the cache, or says what is wrong
        return
    if current != name.repository:
        print(
            f"dsvl-tune: {name.repository} is called {escape(current)} on the hub now. Give that "
            "name.",
            file=sys.stderr,
        )


def hub_error(name: HubName, error: Exception, kind: Kind = "model") -> UserError:
    """The message for what the hub did not give: its own line, and what to do.

    Args:
        name: of the repository.
        error: that the client raised.
        kind: of the repository.
    """
    from huggingface_hub import constants

    causes = list(error_chain(error))
    told = next((text for cause in causes if (text := getattr(cause, "server_message", None))), "")
    if not told:
        told = next((line for line in str(causes[-1]).splitlines() if line.strip()), "")
    own = f"{type(causes[-1]).__name__}: {told}" if told else type(causes[-1]).__name__
    what, section = ("data set", "datasets/") if kind == "dataset" else ("checkpoint", "")
    page = f"{constants.ENDPOINT}/{section}{name.repository}"
    return UserError(
        f"{what} '{name}': no such folder here, and the Hugging Face hub did not give it "
        f"({own}). {_advice(causes, name, page)}"
    )


def _advice(causes: list[BaseException], name: HubName, page: str) -> str:
    """What to do about an error of the hub.

    Args:
        causes: the error and what it was raised from.
        name: of the checkpoint.
        page: of the repository.
    """
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HFValidationError,
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_any(HFValidationError):
        return "No name on the hub has this form. Check the name, or the path of the folder."
    if is_any(GatedRepoError):
        return f"It is gated: accept its license at {page}, then {TOKEN}."
    if is_any(RepositoryNotFoundError):
        return f"Check the name at {page}; if the repository is private, {TOKEN}."
    if is_any(RevisionNotFoundError):
        return f"It has no revision {name.revision}: see {page}/commits for those that it has."
    if is_any(DisabledRepoError):
        return "The hub has disabled the repository. Give the folder of a copy."
    if is_any(NotASafetensorsRepoError):
        return "Weights are read from safetensors files only, and it has none."
    if is_any(OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the cache lacks it. Unset it, or give a folder."
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return "The disk is full. Free some space, or set HF_HUB_CACHE to a folder on another one."
    return (
        "Check the network and start the command again, which downloads what is not complete yet. "
        "Or download it elsewhere and give its folder."
    )


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, the last one first raised."""
    while error is not None:
        yield error
        error = error.__cause__
