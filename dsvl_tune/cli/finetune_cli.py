"""Lightning's verbs by recipe: YAML and command-line keys to trainer, module and data module, and a run folder."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer import Trainer

from dsvl_tune.cli.parser import DESCRIPTION, RecipeParser, recipe_name, with_shipped_recipes
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import write_json, write_whole
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.evaluation.answers import gather_answers
from dsvl_tune.evaluation.predictions import answers_file, print_answers_summary, write_answers
from dsvl_tune.evaluation.scoring import score_answers
from dsvl_tune.training.callbacks.monitor_check import check_monitor, chosen_monitor
from dsvl_tune.training.checkpoints.sharded_io import RunCheckpointIO
from dsvl_tune.training.distributed.rank_agreement import (
    decided_by_first,
    die_with_first,
    is_first,
    was_launched_by_first,
)
from dsvl_tune.training.distributed.strategy import choose_strategy
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.callbacks_and_loggers import run_callbacks, run_loggers
from dsvl_tune.training.run.error_messages import explained_errors
from dsvl_tune.training.run.folder import existing_run_folder, kept_checkpoint, place_run
from dsvl_tune.training.run.lock import one_at_a_time
from dsvl_tune.training.run.manifest import manifest
from dsvl_tune.training.run.stop_request import RunStopped, StopRequest


class RecipeCLI(LightningCLI):
    """Trainer, `FinetuneModule` and any `ConversationDataModule` from a recipe."""

    run_folder: Path
    out: Path
    stop: StopRequest
    exit_code = 0
    trainer: Trainer
    model: FinetuneModule
    datamodule: ConversationDataModule

    def __init__(self, arguments: list[str], run: bool = True) -> None:
        quieten()
        super().__init__(
            FinetuneModule,
            ConversationDataModule,
            subclass_mode_data=True,
            parser_class=RecipeParser,
            parser_kwargs={name: {"description": text} for name, text in DESCRIPTION.items()}
            if run
            else None,
            seed_everything_default=1,
            save_config_callback=None,
            trainer_defaults={
                "accelerator": "auto",
                "devices": 1,
                "precision": "32-true",
                "gradient_clip_val": 1.0,  # arXiv 2403.05525, table 4
                "num_sanity_val_steps": 0,  # the score before training has run the same path
                "use_distributed_sampler": False,  # the data module's own sampler is rank-aware and resumes exactly
                "log_every_n_steps": 10,
                "enable_model_summary": False,  # the plan says it by part
            },
            args=with_shipped_recipes(arguments),
            run=run,
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs offered, with Lightning's arguments that the recipe replaces."""
        return {
            verb: replaced | {"weights_only", "return_predictions"}
            for verb, replaced in LightningCLI.subcommands().items()
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str, default="runs", help="folder that holds the folders of runs"
        )
        parser.add_argument(
            "--run_name",
            type=str,
            default=None,
            help="name of the run (default: the recipe's name)",
        )
        parser.add_argument(
            "--monitor",
            type=str | None,
            default=None,
            help="logged name that selects the best checkpoint, e.g. val/loss; last keeps the final "
            "step (default: the first of data.metrics)",
        )
        parser.add_argument(
            "--keep_best",
            type=PositiveInt,
            default=1,
            help="so many of the best checkpoints stay in the run's folder",
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto", "never"],
            default="auto",
            help="auto goes on with an unfinished run of this name and recipe, so one command starts and resumes",
        )
        parser.add_argument(
            "--checkpoint_every_steps",
            type=PositiveInt | None,
            default=None,
            help="optimizer steps after which the last checkpoint is saved, besides every validation",
        )
        parser.add_argument(
            "--time_limit_s",
            type=PositiveFloat | None,
            default=None,
            help="seconds after which this start of the run saves and ends with exit code 75; leave time for a save",
        )
        parser.link_arguments("model.checkpoint", "data.init_args.checkpoint")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--out", type=Path, help="file of the answers (default: in the run's predictions/)"
            )
        return parser

    def before_instantiate_classes(self) -> None:
        if self.subcommand is None:
            return
        config = self.config[self.subcommand]
        base = Path(config.run_dir) / (config.run_name or recipe_name(config.config))
        if self.subcommand != "fit":
            self.find_run(config, base)
        else:
            die_with_first()
            self.stop = StopRequest(config.time_limit_s)
            self.run_folder, checkpoint = decided_by_first(
                lambda: place_run(base, config.ckpt_path, config.resume, self.recipe())
            )
            config.ckpt_path = checkpoint and str(checkpoint)
        if config.ckpt_path is not None and not Path(config.ckpt_path).exists():
            words = "last" if self.subcommand == "fit" else "best or last"
            raise UserError(
                f"--ckpt_path {config.ckpt_path}: no such file. Give a checkpoint of a run, or {words}."
            )

    def recipe(self) -> dict[str, Any]:
        """The whole recipe as `config.yaml` has it."""
        self._dump_config()
        return {
            name: value
            for name, value in self.config_dump.items()
            if name not in ("config", "ckpt_path")
        }

    def find_run(self, config: Any, base: Path) -> None:
        """For verbs that do not train: the checkpoint that "best" or "last" means, and where answers go."""
        run = existing_run_folder(base, Path(str(config.config[0])) if config.config else None)
        if config.ckpt_path in ("best", "last"):
            config.ckpt_path = str(kept_checkpoint(run, config.ckpt_path, base))
        if self.subcommand == "predict":
            self.out = answers_file(config.out, run, base)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        if self.subcommand is None:  # a command that asks for the recipe's data or model alone
            return super().instantiate_trainer(
                strategy="auto", devices=1, num_nodes=1, logger=False, **kwargs
            )
        kwargs["strategy"] = choose_strategy(
            *(settings[key] for key in ("strategy", "devices", "num_nodes"))
        )
        kwargs["plugins"] = [
            RunCheckpointIO(optimizer=self.subcommand == "fit"),
            *(settings.get("plugins") or []),
        ]
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        given = settings.get("callbacks") or []
        progress = settings.get("enable_progress_bar") is not False
        callbacks = run_callbacks(
            self.run_folder,
            progress=progress,
            stop=self.stop,
            monitor=self.monitor(),
            metrics=self.datamodule.metrics,
            keep_best=self._get(self.config_init, "keep_best"),
            checkpoint_every_steps=self._get(self.config_init, "checkpoint_every_steps"),
        )
        if isinstance(settings["val_check_interval"], int):
            kwargs["check_val_every_n_epoch"] = (
                None  # so many steps, however many an epoch has; else Lightning raises
            )
        return super().instantiate_trainer(
            callbacks=[*callbacks, *given],
            logger=run_loggers(self.run_folder),
            default_root_dir=self.run_folder,
            **kwargs,
        )

    def monitor(self) -> str:
        """Logged name that selects the best checkpoint."""
        return chosen_monitor(self._get(self.config_init, "monitor"), self.datamodule.metrics)

    def fit(
        self, model: FinetuneModule, datamodule: ConversationDataModule, ckpt_path: str | None
    ) -> None:
        """Read every row, then write the run's description, then train."""
        try:
            with (
                self.stop,
                one_at_a_time(self.run_folder),
                explained_errors(self.trainer, self.run_folder),
            ):
                set_up_fit(datamodule)
                # The user's own callbacks may log more names than are known here.
                if not self._get(self.config_init, "trainer")["callbacks"]:
                    check_monitor(self.monitor(), datamodule)
                self.describe_run(model)
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        except RunStopped as stopped:
            self.exit_code = stopped.exit_code
            if is_first():
                print(
                    f"stopped at step {self.trainer.global_step}; the same command goes on (exit code {self.exit_code})"
                )
                print(f"run folder: {self.run_folder}", flush=True)

    def _run_subcommand(self, subcommand: str) -> None:
        self.model.check_arguments()
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:  # what Lightning's trainer makes of Ctrl-C
            raise KeyboardInterrupt from None

    def read_test_rows(self) -> None:
        """Read every row before the work begins."""
        self.datamodule.setup("test")
        if not self.datamodule.rows("test"):
            raise UserError(
                "data: there are no test rows to answer. Name some, e.g. --data.test questions.jsonl."
            )

    before_test = before_predict = read_test_rows

    def predict(
        self, model: FinetuneModule, datamodule: ConversationDataModule, ckpt_path: str | None
    ) -> None:
        """Answer every question of "test" and write the answers, whole or not at all."""
        batches: Any = self.trainer.predict(model, datamodule=datamodule, ckpt_path=ckpt_path)
        answers = gather_answers([answer for batch in batches for answer in batch])
        if self.trainer.is_global_zero:
            write_answers(self.out, score_answers(answers, datamodule.metrics))
            print_answers_summary(self.out, answers, ckpt_path or model.base.folder)

    def describe_run(self, model: FinetuneModule) -> None:
        """`config.yaml`, which repeats the run, and `manifest.json`: versions and hashes."""
        if not is_first():
            return
        text = yaml.safe_dump(self.recipe(), sort_keys=False, allow_unicode=True)
        (self.run_folder / "summary.json").unlink(
            missing_ok=True
        )  # there is one only where the run has come to its end
        write_whole(
            self.run_folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8")
        )
        write_json(self.run_folder / "manifest.json", manifest(model.base, model.quantization))


def set_up_fit(data: ConversationDataModule) -> None:
    """Set the data up for training.

    Raises:
        UserError: a bad row, or nothing to validate on.
    """
    data.setup("fit")
    if not data.rows("validation"):
        raise UserError(
            "data: there are no validation rows, and the best checkpoint is chosen on them. Add some."
        )


def quieten() -> None:
    """Leave out what Lightning says on every start and what the user cannot act on."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
    warnings.filterwarnings(
        "ignore", message="It is recommended to use `self.log"
    )  # what is logged is the same in all
    warnings.filterwarnings(
        "ignore", message="The number of training batches"
    )  # intervals go on over epochs
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")


def main(arguments: list[str]) -> None:
    """Entry of the trainer verbs."""
    code = RecipeCLI(arguments).exit_code
    # The first process tells the caller. Lightning would kill it for a process it started that ends with a code.
    if code and not was_launched_by_first():
        sys.exit(code)
