"""`dsvl-tune push RUN REPO`: send a merged checkpoint or an adapter to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.cli.parser import command_parser


def push(
    source: Path,
    repository: str,
    adapter: bool = False,
    base: str | None = None,
    revision: str | None = None,
    create: bool = False,
    private: bool = True,
    allow_paths: bool = False,
    message: str | None = None,
) -> None:
    """Send the merged checkpoint of a run, or its adapter, to the Hugging Face hub.

      dsvl-tune push runs/charts_lora my-name/charts --create true
      dsvl-tune push merged my-name/charts --revision v2
      dsvl-tune push runs/charts_lora my-name/charts-lora --adapter true --create true

    The token is that of `hf auth login` or HF_TOKEN, the hub that of HF_ENDPOINT. A repository is
    made only with --create true, and is private unless --private false says otherwise; the
    visibility of one that exists stays as it is. One commit replaces the weights and every file of
    the same name; other files of the repository stay.

    Nothing is sent if the card or a settings file has paths of this machine.

    Args:
        source: Folder of a run, whose merged/ is sent, or of a checkpoint.
        repository: OWNER/NAME.
        adapter: Whether to send the adapter of the run instead, which needs its base to be used.
        base: Name of the adapter's base on the hub, to write into its files.
        revision: Branch (default: the main one).
        create: Whether to make the repository, and the branch, if it does not exist.
        private: Whether a repository that is made is private.
        allow_paths: Whether to send files that have paths of this machine.
        message: Of the commit (default: "Upload by dsvl-tune").
    """
    from dsvl_tune.core.errors import UserError
    from dsvl_tune.export.push import (
        check_paths,
        folder_to_push,
        push_folder,
        size_text,
        with_base,
    )

    if base is not None and not adapter:
        raise UserError("--base: only an adapter names its base. Give --adapter true with it.")
    with with_base(folder_to_push(source, adapter), base) as folder:
        if not allow_paths:
            check_paths(folder)
        card = folder / "README.md"
        if card.is_file() and "\n## Samples\n" in card.read_text(encoding="utf-8"):
            print("note: README.md shows held-out questions with their answers (## Samples)")
        pushed = push_folder(
            folder,
            repository,
            revision=revision,
            create=create,
            private=private,
            message=message,
        )
    print(f"pushed {size_text(pushed)}: {pushed.url}")


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    parser = command_parser("push", push)
    push(**vars(parser.parse_args(arguments)))
