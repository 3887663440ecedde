"""The LightningModule around the whole model: build, step, optimizer, checkpoint of what trains."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint.hub import with_revision
from dsvl_tune.core.dtypes import dtype_of
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, Plan
from dsvl_tune.core.types import Batch
from dsvl_tune.families import check_family
from dsvl_tune.kernels.install import Kernels
from dsvl_tune.models.build import Adaptation, build_model
from dsvl_tune.models.finetuning.adapters import Variant
from dsvl_tune.models.finetuning.quantization import Quantization, quantization_of
from dsvl_tune.models.runtime.attention_mask import Attention
from dsvl_tune.models.runtime.fsdp import is_sharded
from dsvl_tune.training.callbacks.nonfinite_steps import (
    NonfiniteSteps,
    check_finite_weights,
    norm_of,
)
from dsvl_tune.training.distributed.strategy import allow_unused_parameters
from dsvl_tune.training.evaluation_module import AnsweringModule
from dsvl_tune.training.feature_cache import (
    FeatureDtype,
    FeatureExtractor,
    connect_feature_cache,
    open_feature_extractor,
)
from dsvl_tune.training.interval_means import IntervalMeans
from dsvl_tune.training.objectives.base import Objective, Sums
from dsvl_tune.training.objectives.supervised import supervised_loss
from dsvl_tune.training.optim import OptimizerFactory, make_optimizer
from dsvl_tune.training.parameter_groups import learning_rates
from dsvl_tune.training.schedules import ScheduleFactory, make_schedule, warmup_cosine


class FinetuneModule(AnsweringModule):
    """A complete vision-language model with each part frozen, fully trained or given LoRA.

    The constructor stores its arguments; the checkpoint is opened in `setup`.

    Args:
        checkpoint: "embedded" (small, in the package), a local folder, or a Hugging Face hub name,
            with a revision as OWNER/NAME@REVISION.
        preset: what trains. DeepSeek-VL: align, pretrain, sft (the paper's stages), lora (adapters
            on the language model), qlora (the same on a base in 4 bits), full, none.
        parts: overrides of the preset, part by part. DeepSeek-VL: siglip, sam, sam_neck,
            sam_neck_hd, downsample, aligner, embed_tokens, language_model, lm_head.
        family: that the checkpoint must be of, e.g. DeepSeek-VL; null takes any.
        revision: branch, tag or commit of a checkpoint on the hub, the same as after its name; null
            takes the one in the name, else the main branch.
        lr: learning rate of parts that name none of their own.
        warmup_steps: optimizer steps of linear warm-up.
        min_lr_ratio: share of the learning rate at which the cosine ends, 0..1.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        lora_variant: lora, rslora or dora.
        lora_dropout: 0..1, on the adapters' input.
        dtype: of frozen weights; what trains is float32. With a 16-bit dtype set trainer.precision
            to bf16-mixed.
        quantization: nf4 puts the frozen base of the language model's linear layers into 4 bits
            (double quantization); they compute in bfloat16 if dtype is that, else in float32. Needs
            bitsandbytes.
        gradient_checkpointing: recompute activations in the backward pass, which takes more time
            and far less memory; true, or the names of parts. DeepSeek-VL: siglip, sam,
            language_model.
        attention: kernel of the language model: sdpa, or flex (FlexAttention, on a GPU), which
            skips what a token of a message tree or a packed row does not attend to.
        compile: compile the language model's layers with torch.compile; the first step then takes
            minutes.
        kernels: auto, or off: layers compute as in transformers and peft, without the faster
            forwards of this package. Results are equal up to rounding.
        max_new_tokens: length of the longest answer that validate, test and predict generate.
        max_nonfinite_steps: optimizer steps with a non-finite loss or gradient that are skipped,
            with a line that names their samples; the next one ends the run. A skipped step counts,
            but changes no weight.
        feature_cache: folder that keeps the features that frozen vision towers compute, so that
            each image passes them once; null keeps nothing. `dsvl-tune cache-features` fills it
            beforehand.
        feature_dtype: bfloat16 or float32, of cached features. float32 changes nothing; bfloat16
            takes half the disk space and rounds each feature by up to 0.4 %.
        feature_cache_gb: limit of the folder's size; when it is reached, nothing more is added.
        reuse_base_answers: take the base's answers to held-out questions from an earlier run, where
            base, questions and all that they depend on are the same; false answers them anew.
        objective: what a step minimizes: import path of a function of model and batch, or of a
            class whose instances can be called; see `training.objectives`.
        optimizer: class of the optimizer, null for AdamW; of its own arguments, lr and weight_decay
            are those of the model. model.betas is AdamW's alone.
        lr_scheduler: class of the schedule, or a function that makes one; null for warm-up and
            cosine, which alone use model.min_lr_ratio.
    """

    def __init__(
        self,
        checkpoint: str = "embedded",
        preset: str = "lora",
        parts: dict[str, PartPlan] | None = None,
        family: str | None = None,
        revision: str | None = None,
        lr: float = 2e-4,
        warmup_steps: int = 20,
        min_lr_ratio: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        lora_variant: Variant = "lora",
        lora_dropout: float = 0.0,
        dtype: str = "float32",
        quantization: Quantization | None = None,
        gradient_checkpointing: bool | tuple[str, ...] = False,
        attention: Attention = "sdpa",
        compile: bool = False,
        kernels: Kernels = "auto",
        max_new_tokens: int = 32,
        max_nonfinite_steps: int = 0,
        feature_cache: str | None = None,
        feature_dtype: FeatureDtype = "bfloat16",
        feature_cache_gb: float = 100.0,
        reuse_base_answers: bool = True,
        objective: Objective = supervised_loss,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: ScheduleFactory | None = None,
    ) -> None:
        super().__init__(with_revision(checkpoint, revision), max_new_tokens, objective)
        self.save_hyperparameters(logger=False)  # for config.yaml; run checkpoints omit them
        self.preset = preset
        self.parts = parts or {}
        self.family = family
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.min_lr_ratio = min_lr_ratio
        self.betas = betas
        self.weight_decay = weight_decay
        self.lora_variant = lora_variant
        self.lora_dropout = lora_dropout
        self.dtype_name = dtype
        self.quantization = quantization_of(preset, quantization)
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.compiled = compile
        self.kernels: Kernels = kernels
        self.feature_cache = feature_cache
        self.feature_dtype = feature_dtype
        self.feature_cache_gb = feature_cache_gb
        self.reuse_base_answers = reuse_base_answers
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        # A run's checkpoint holds what trains; on_load_checkpoint checks it.
        self.strict_loading = False
        self.plan: Plan = {}
        self.nonfinite_steps = NonfiniteSteps(max_nonfinite_steps)
        self.logged_names: tuple[str, ...] | None = None
        self.step_sums: list[Tensor] = []
        self.interval = IntervalMeans()

    @property
    def adaptation(self) -> Adaptation:
        """What the run trains of its base checkpoint.

        Raises:
            UserError: `dtype` is no dtype of weights.
        """
        return Adaptation(
            preset=self.preset,
            parts=self.parts,
            dtype=dtype_of(self.dtype_name, "model.dtype"),
            quantization=self.quantization,
            variant=self.lora_variant,
            dropout=self.lora_dropout,
            seed=self.seed,
        )

    @property
    def seed(self) -> int:
        """Of the run, from where Lightning's `seed_everything` keeps it."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def check_arguments(self) -> None:
        """Open the base checkpoint and compare the arguments with it, before anything is written.

        Raises:
            UserError: the checkpoint cannot be used, or an argument does not fit it.
        """
        check_family(self.base, self.family)
        self.adaptation.requested_plan(self.base.family)
        _ = self.processor

    def setup(self, stage: str) -> None:
        """Open the base checkpoint, and make DDP accept batches of text alone."""
        self.check_arguments()
        allow_unused_parameters(self.trainer)

    def configure_model(self) -> None:
        """Build the model, see `models.build`. Lightning may call it more than once."""
        if self.model is not None:
            return
        self.model, self.plan = self.build(
            self.device_mesh["data_parallel"] if self.device_mesh else None
        )
        if self.feature_cache is not None:
            precision = str(self.trainer.precision)
            self.feature_extractor = self.open_extractor(self.model, self.plan, precision)
            connect_feature_cache(self.feature_extractor, self.trainer)

    def build(self, mesh: DeviceMesh | None) -> tuple[PreTrainedModel, Plan]:
        """The complete model in training mode, and the plan of its parts.

        Args:
            mesh: the processes to shard over, or None.
        """
        return build_model(
            self.base,
            self.adaptation,
            gradient_checkpointing=self.gradient_checkpointing,
            attention=self.attention,
            compiled=self.compiled,
            kernels=self.kernels,
            mesh=mesh,
        )

    def open_extractor(
        self, model: PreTrainedModel, plan: Plan, precision: str
    ) -> FeatureExtractor:
        """The feature extractor of a model, with the cache that the recipe names."""
        assert self.feature_cache is not None
        return open_feature_extractor(
            model, plan, self.feature_cache, self.feature_dtype, self.feature_cache_gb, precision
        )

    def build_feature_extractor(self, precision: str) -> FeatureExtractor:
        """A feature extractor of its own, without language model, to fill the cache with.

        Args:
            precision: of the trainer.

        Raises:
            UserError: as `open_feature_extractor`.
        """
        model, plan = self.build(None)
        extractor = self.open_extractor(model, plan, precision)
        extractor.drop_language_model()
        return extractor

    # The loss is one weighted mean over the whole optimizer step and all ranks, whatever the
    # objective. Lightning divides each micro-batch's loss by their number, so that is multiplied
    # back, and the summed gradient is divided once by the weight of the step, before clipping.

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from a seed that is a function of the position alone, so a resumed run draws
        # the same.
        position = (
            self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        )
        # Hashed, because torch's CPU generator takes 32 bits: a sum would mix up seeds and
        # positions.
        torch.manual_seed(int(np.random.SeedSequence((self.seed, position)).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the weighted losses of a micro-batch: float32 scalar."""
        self.in_work = batch
        sums: Sums = self.compute(self.objective, batch)
        names = tuple(sums.logged)
        if self.logged_names is None:
            self.logged_names = names
        elif names != self.logged_names:
            raise ValueError(f"{self.objective} logs {names}, before it logged {self.logged_names}")
        self.step_sums.append(sums.table())
        self.nonfinite_steps.sources.append(batch.sources)
        loss = sums.loss if sums.loss.requires_grad else self._with_gradient(sums.loss)
        return loss * self.trainer.accumulate_grad_batches

    def _with_gradient(self, loss: Tensor) -> Tensor:
        """A loss that nothing that trains took part in, with a gradient of zero.

        So is the loss of text where the vision side alone trains. The other ranks of DDP wait for
        a gradient of every trained tensor. In a sharded model no rank has one: there `compute` lets
        all of them encode images or none.

        Args:
            loss: float32 scalar without a gradient.
        """
        if is_sharded(self.network):
            return loss.requires_grad_()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.stack([parameter.flatten()[:0].sum() for parameter in trained]).sum() + loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the summed gradient by the weight of the whole step, over all ranks."""
        own = torch.stack(self.step_sums)  # [micro-batches, 1 + logged names, 2]
        self.step_sums.clear()
        sums = self.trainer.strategy.reduce(own.sum(0), reduce_op="sum")
        loss_sum, weight_sum = sums[0].unbind()
        gradients = [
            parameter.grad for parameter in self.parameters() if parameter.grad is not None
        ]
        if gradients:  # DDP and FSDP average them over the ranks
            torch._foreach_mul_(gradients, self.trainer.world_size / weight_sum)
        norm = norm_of(gradients)
        nonfinite = self.nonfinite_steps.judge(self, loss_sum / weight_sum, own[:, 0, 0], norm)
        if nonfinite or not norm:
            # Without gradients the optimizer does nothing; with zeros AdamW would move on by its
            # momentum. A step is all zeros if nothing that trains took part in it.
            optimizer.zero_grad(set_to_none=True)
        if nonfinite:
            return
        self.interval.add(sums)
        self._log_interval(optimizer, norm)

    def _log_interval(self, optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> None:
        """Log means over the steps since the last logged one, and the rate of each model part.

        Args:
            optimizer: of the run.
            gradient_norm: scalar: norm of all gradients of this step, before clipping.
        """
        assert self.logged_names is not None
        means = self.interval.means(("loss", *self.logged_names))
        self.log("train/loss", means.pop("loss"), prog_bar=True)
        trainer = self.trainer
        if (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self.interval.clear()
        for name, mean in means.items():
            self.log(f"train/{name}", mean)
        self.log("train/grad_norm", gradient_norm)
        for part, rate in learning_rates(optimizer).items():
            self.log(f"lr/{part}", rate)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer with groups for each part; the schedule, by optimizer step."""
        optimizer = make_optimizer(
            self.network,
            self.plan,
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            factory=self.optimizer,
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule: LRScheduler
        if self.lr_scheduler is None:
            schedule = warmup_cosine(optimizer, self.warmup_steps, total_steps, self.min_lr_ratio)
        else:
            schedule = make_schedule(
                optimizer,
                self.lr_scheduler,
                warmup_steps=self.warmup_steps,
                total_steps=total_steps,
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Checkpoints hold what trains; the base is in its own folder.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained tensors only, and none that is not finite."""
        check_finite_weights(self)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {
            name: t for name, t in checkpoint["state_dict"].items() if name in trained
        }
        checkpoint["nonfinite_steps"] = self.nonfinite_steps.seen
        checkpoint["interval"] = self.interval.state()
        checkpoint["optimizer"] = self.optimizer_name
        # Constructor arguments are in config.yaml; here they would be pickled Python objects.
        checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_KEY, None)
        checkpoint.pop(self.CHECKPOINT_HYPER_PARAMS_NAME, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another plan: loading is not strict and would not notice."""
        self.nonfinite_steps.seen = checkpoint.get("nonfinite_steps", 0)
        self.interval.load(checkpoint.get("interval", []), self.device)
        self._check_optimizer(checkpoint.get("optimizer", "AdamW"))
        trained = {name: p.shape for name, p in self.named_parameters() if p.requires_grad}
        saved = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
        differing = [
            name for name in trained.keys() | saved.keys() if trained.get(name) != saved.get(name)
        ]
        if differing:
            raise UserError(
                f"the checkpoint to resume from trained {len(saved)} tensors, this recipe trains "
                f"{len(trained)} (differing, e.g.: {min(differing)}). Resume with the recipe that "
                "wrote it."
            )

    @property
    def optimizer_name(self) -> str:
        """Name of the class or function that makes the optimizer."""
        factory: Any = AdamW if self.optimizer is None else self.optimizer
        return str(getattr(factory, "func", factory).__name__)

    def _check_optimizer(self, saved: str) -> None:
        """Refuse a checkpoint of another optimizer: its state would mean something else.

        Args:
            saved: name of the optimizer's class in the checkpoint.
        """
        if self.optimizer_name != saved:
            raise UserError(
                f"the checkpoint to resume from was trained with {saved}, this recipe has "
                f"{self.optimizer_name}. Resume with the recipe that wrote it."
            )
