"""A base checkpoint: a folder that is opened once, and everything that is read of it.

`families.open_checkpoint` makes one of a name. Whatever needs to know something about a checkpoint
is given the object and asks it; nothing else reads its files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.checkpoint.checksums import check_own_sums
from dsvl_tune.core.checkpoint.config_numbers import check_numbers
from dsvl_tune.core.checkpoint.hub import download_checkpoint, hub_name
from dsvl_tune.core.checkpoint.weight_headers import (
    Stored,
    has_weights,
    read_headers,
    read_json,
)
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.package import FOLDER
from dsvl_tune.core.storage.files import sha256

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    from dsvl_tune.core.family import Family, Layout, Processor

EMBEDDED = FOLDER / "demo" / "embedded"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class Checkpoint:
    """A base checkpoint, in either layout.

    Everything below is read when it is first asked for, and kept. It is shared by all that use the
    checkpoint: copy a config or a tokenizer before changing it.

    Args:
        name: as the user gave it: "embedded", a folder or a hub name.
        folder: with the files.
        settings: content of config.json.
        family: that the checkpoint belongs to.
        sums: hashes that its SHA256SUMS lists, by file name.
        headers: of its tensors where the weight files are not in the folder.
        complete: False where the sizes alone are wanted. The folder then needs no tokenizer and, in
            transformers' layout, no weights, and the config has no special token ids.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        family: Family,
        *,
        sums: dict[str, str] | None = None,
        headers: dict[str, Stored] | None = None,
        complete: bool = True,
    ) -> None:
        self.name = name
        self.folder = folder
        self.settings = settings
        self.family = family
        self.complete = complete
        self._sums = sums
        self._given_headers = headers
        self._hashes: dict[tuple[Path, int, int], str] = {}

    @property
    def repository(self) -> str | None:
        """Owner and name on the hub; None where the folder is no snapshot in the hub's cache."""
        found = hub_name(self.name) if is_snapshot(self.folder) else None
        return found.repository if found else None

    @property
    def commit(self) -> str | None:
        """The commit of a checkpoint that the hub gave; None for a local folder."""
        return self.folder.name if self.repository else None

    @property
    def address(self) -> str:
        """What others find the checkpoint by: its hub name, or the absolute path of its folder."""
        return self.repository or str(self.folder.resolve())

    @cached_property
    def layout(self) -> Layout:
        """The layout that the checkpoint is in."""
        return self.family.layout(self.settings)

    @cached_property
    def headers(self) -> dict[str, Stored]:
        """Every tensor by its name in the files, read from their headers.

        Raises:
            UserError: no safetensors there, a damaged or truncated file, or an index that does not
                fit its files.
        """
        if self._given_headers is not None:
            return self._given_headers
        pickles = self.layout == "original" and self.family.pickled_originals
        found = has_weights(self.folder) or (pickles and has_weights(self.folder, pickled=True))
        if not self.complete and not found and (pickles or self.layout == "transformers"):
            return {}
        return read_headers(self.folder, pickles_allowed=pickles)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration in transformers' terms.

        Published configs leave out bos, eos and pad, so these come from the tokenizer: with Llama's
        defaults (1, 2, none) generation would never stop.

        Raises:
            UserError: config.json does not describe a model of the family.
        """
        headers = self.headers
        try:
            config = self.family.read_config(self)
        except UserError:
            raise
        except Exception as error:  # any: each class of transformers checks in its own way
            raise UserError(
                f"{self.folder}/config.json: it does not describe a {self.family.name} model "
                f"({type(error).__name__}: {error})."
            ) from error
        if self.layout == "transformers":
            names = {self.family.current_name(name) for name in headers}
            config.tie_word_embeddings = is_tied(self.settings, names)
        if self.complete:
            for name, value in self.special_ids.items():
                setattr(config.get_text_config(), name, value)
        return config

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, with every token that a prompt of the family needs."""
        return self.family.read_tokenizer(self)

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Ids that begin, end and pad a text, by their names in transformers' configs.

        A tokenizer without a pad token pads with the end token.

        Raises:
            UserError: the tokenizer has no token that begins or ends a text.
        """
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id
        for name in ("bos_token", "eos_token"):
            if getattr(tokenizer, f"{name}_id") is None:
                raise UserError(
                    f"{self.folder}/tokenizer_config.json: {name} is "
                    f"{getattr(tokenizer, name)!r}, which is no token of tokenizer.json. Copy the "
                    "tokenizer files of the base checkpoint."
                )
        return {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id if pad is None else pad,
        }

    @cached_property
    def processor(self) -> Processor:
        """Everything that turning a conversation into tokens and vision inputs needs.

        Raises:
            UserError: its files are missing, contradict each other, or hold an impossible number.
        """
        for path in (self.folder / name for name in PROCESSOR_FILES):
            if path.is_file():
                check_numbers(str(path), read_json(path))
        return self.family.read_processor(self)

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a file in hexadecimal, computed again only if the file has changed."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = sha256(path)
        return self._hashes[key]

    @property
    def weight_hashes(self) -> dict[str, str]:
        """SHA-256 of each weight file, by its name."""
        paths = sorted({stored.path for stored in self.headers.values()})
        return {path.name: self.file_hash(path) for path in paths}

    def copy_file(self, path: Path, target: Path) -> None:
        """Copy one of the checkpoint's files, byte for byte, to what is passed on to others.

        A link may lead to another file of the checkpoint, as it does in the hub's cache. One that
        leads out of it would pass on a file that nobody meant to.

        Args:
            path: of the file, in the folder or below it.
            target: file to write.

        Raises:
            UserError: it is no regular file, or not one of the checkpoint's.
        """
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in own_roots(self.folder)):
            raise UserError(
                f"{path}: is a link out of the checkpoint, to {real}, and is not copied. Put the "
                "file itself there, or remove the link."
            )
        if not real.is_file():
            raise UserError(f"{path}: is not a regular file, and is not copied. Remove it.")
        shutil.copyfile(real, target)

    def check_weight_files(self) -> None:
        """Compare the weight files with the folder's SHA256SUMS, if it has one.

        Raises:
            UserError: a file is missing, changed or not listed.
        """
        check_own_sums(self.folder, self._sums, weights=True, file_hash=self.file_hash)


def own_roots(folder: Path) -> list[Path]:
    """The folders that hold a checkpoint's files: its own one, and in the hub's cache its blobs.

    There, files of `models--OWNER--NAME/snapshots/COMMIT` are links into
    `models--OWNER--NAME/blobs` (huggingface_hub, guide "Understand caching").
    """
    folder = folder.resolve()
    blobs = folder.parent.parent / "blobs"
    if is_snapshot(folder) and blobs.is_dir() and not blobs.is_symlink():
        return [folder, blobs]
    return [folder]


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a snapshot in the hub's cache, `models--OWNER--NAME/snapshots/COMMIT`."""
    return folder.parent.name == "snapshots"


def is_tied(settings: Mapping[str, Any], names: Set[str]) -> bool:
    """Whether lm_head shares the tensor of the embeddings, in transformers' layout.

    Only where config.json says so and the files hold no lm_head. The default of transformers is
    tied, but no published checkpoint is. Files with a `lm_head.weight` of their own are not tied
    whatever the flag is, and a checkpoint that lost it must not become tied by default.
    """
    return settings.get("tie_word_embeddings") is True and "lm_head.weight" not in names


def refuse_quantized(place: str, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights were quantized: merging and exact loading need the rest.

    Args:
        place: of the config.json, for the message.
        settings: its content.

    Raises:
        UserError: it, or a part of it, has a `quantization_config`.
    """
    sections = {"": settings}
    for name, section in settings.items():
        if isinstance(section, dict):
            sections[f"{name}."] = section
    for prefix, section in sections.items():
        if section.get("quantization_config"):
            raise UserError(
                f"{place}: {prefix}quantization_config says that these weights are quantized; "
                "expected float32, bfloat16 or float16. Give the checkpoint that they were made "
                "from; to train on a 4-bit base, add --model.quantization nf4 to it."
            )


def resolve_checkpoint(name: str) -> Path:
    """Folder of a checkpoint.

    Args:
        name: "embedded" (the small trained model inside the package), a local folder, or a name on
            the Hugging Face hub, with a revision after an "@" if any, whose files are then
            downloaded (safetensors and JSON only). The network is not touched for a folder.

    Raises:
        UserError: neither a folder nor a name that the hub knows.
    """
    if name == "embedded":
        return EMBEDDED
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    on_hub = hub_name(name)
    if on_hub is None:
        raise UserError(
            f"checkpoint {name!r}: no such folder. Expected 'embedded', a folder with config.json "
            "and safetensors, or a hub name such as deepseek-ai/deepseek-vl-1.3b-chat."
        )
    return download_checkpoint(on_hub)
