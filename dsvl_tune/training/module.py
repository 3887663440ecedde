"""The LightningModule around the complete model: build, step, optimizer, checkpoint of what trains."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.models.adapters import Variant, apply_plan
from dsvl_tune.models.loading import load_model, resolve_checkpoint
from dsvl_tune.models.parts import PartPlan, Plan, Preset, fit_plan, make_plan
from dsvl_tune.models.processor import load_processor
from dsvl_tune.models.quantization import Quantization, check_quantization
from dsvl_tune.models.sharding import drawable, empty_model, fill, is_sharded, shard
from dsvl_tune.models.weights import Weights
from dsvl_tune.schema import Batch, Prompts, UserError
from dsvl_tune.training.bad_steps import BadSteps
from dsvl_tune.training.blank_image import with_image
from dsvl_tune.training.generation import Answer, answer_prompts, score
from dsvl_tune.training.loss import sums_by_modality, supervised_loss, token_losses
from dsvl_tune.training.optim import make_optimizer, warmup_cosine
from dsvl_tune.training.predictions import gather_answers


class FinetuneModule(L.LightningModule):
    """DeepSeek-VL, both families, with each part frozen, fully trained or given LoRA.

    Args:
        checkpoint: "embedded" (small, in the package), a local folder, or a Hugging Face hub name.
        preset: what trains: align, pretrain, sft (the paper's stages), lora (adapters on the language model), qlora
            (the same on a base in 4 bits), full, none.
        parts: overrides of the preset, part by part; parts: siglip, sam, sam_neck, sam_neck_hd, downsample, aligner,
            embed_tokens, language_model, lm_head.
        lr: learning rate of parts that name none of their own.
        warmup_steps: optimizer steps of linear warm-up.
        final_lr_share: share of the rate that the cosine ends at, 0..1.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        lora_variant: lora, rslora or dora.
        lora_dropout: 0..1, on the adapters' input.
        dtype: of frozen weights; what trains is float32. With a 16-bit dtype set trainer.precision to bf16-mixed.
        quantization: nf4 puts the frozen base of the language model's linear layers into 4 bits (double quantisation);
            they compute in bfloat16 if dtype is that, else in float32. Needs bitsandbytes.
        gradient_checkpointing: recompute activations in the backward pass: slower, far smaller.
        max_new_tokens: longest answer that validate, test and predict generate.
        max_bad_steps: optimizer steps with a loss or gradient that is not finite which are left out, with a line that
            names their rows; the next one stops the run. The step counts, the weights stay.
    """

    def __init__(
        self,
        checkpoint: str = "embedded",
        preset: Preset = "lora",
        parts: dict[str, PartPlan] | None = None,
        lr: float = 2e-4,
        warmup_steps: int = 20,
        final_lr_share: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        lora_variant: Variant = "lora",
        lora_dropout: float = 0.0,
        dtype: str = "float32",
        quantization: Quantization | None = None,
        gradient_checkpointing: bool = False,
        max_new_tokens: int = 32,
        max_bad_steps: int = 0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # a run's checkpoint holds what trains; on_load_checkpoint checks it
        self.folder = resolve_checkpoint(checkpoint)
        self.processor = load_processor(self.folder)
        self.requested = make_plan(preset, parts)
        self.overridden = set(parts or {})
        self.lr, self.warmup_steps, self.final_lr_share = lr, warmup_steps, final_lr_share
        self.betas, self.weight_decay = betas, weight_decay
        self.lora_variant, self.lora_dropout = lora_variant, lora_dropout
        self.dtype_of_frozen = torch_dtype(dtype)
        self.quantization: Quantization | None = "nf4" if preset == "qlora" else quantization
        if self.quantization is not None:
            check_quantization(self.requested)
        self.gradient_checkpointing = gradient_checkpointing
        self.max_new_tokens = max_new_tokens
        self.bad_steps = BadSteps(max_bad_steps)
        self.in_work: Batch | Prompts | None = None
        self.model: PreTrainedModel | None = None
        self.plan: Plan = {}
        self.answers: list[Answer] = []
        self.step_sums: list[Tensor] = []
        self.modality_sums: list[Tensor] = []
        self.validation_sums: list[Tensor] = []

    @property
    def network(self) -> PreTrainedModel:
        """The complete model, once `configure_model` has built it."""
        assert self.model is not None
        return self.model

    def configure_model(self) -> None:
        """Build the model: load (and quantise), freeze, adapt, in this order. Lightning may call it more than once."""
        if self.model is not None:
            return
        mesh = self.device_mesh
        streamed = mesh is not None and self.quantization is None
        if streamed:
            model = self.empty_network()
        else:
            model = self.adapted(load_model(self.folder, self.dtype_of_frozen, self.quantization))
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if mesh:
            shard(model, mesh["data_parallel"])
        if streamed:
            fill(model, Weights(self.folder, model.config), self.dtype_of_frozen)
        self.model = model.train()  # from_pretrained gives eval mode, which would switch the adapters' dropout off

    def adapted(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the plan applied."""
        self.plan = fit_plan(self.requested, model, self.overridden)
        apply_plan(model, self.plan, self.lora_variant, self.lora_dropout)
        return model

    def empty_network(self) -> PreTrainedModel:
        """The model with the plan applied and without the checkpoint's weights."""
        model = empty_model(self.folder, self.dtype_of_frozen)
        with drawable(model, {part for part, how in self.requested.items() if how.mode == "lora"}):
            return self.adapted(model)

    def compute(self, function: Callable[..., Any], batch: Batch | Prompts) -> Any:
        """`function(network, batch)`.

        In a sharded model all processes gather a tower's layers together or not at all, so a process whose batch is of
        text alone encodes a blank image, which no slot shows, when another has images.
        """
        if not is_sharded(self.network):
            return function(self.network, batch)
        if self.trainer.strategy.reduce_boolean_decision(batch.pixel_values is not None, all=False):
            batch = with_image(batch, self.processor.image_rule)
        return self.network.run(function, batch)

    # Training: the loss is one weighted mean over the whole optimizer step and all processes. Lightning divides each
    # micro-batch's loss by their number, so that is multiplied back, and the summed gradient is divided once, in
    # on_before_optimizer_step, which comes before clipping.

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from a seed that is a function of the position alone, so a resumed run draws the same.
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where Lightning keeps `seed_everything`
        position = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        # Hashed, because torch's CPU generator takes 32 bits: a sum would mix up seeds and positions.
        torch.manual_seed(int(np.random.SeedSequence((seed, position)).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the weighted losses of a micro-batch."""
        self.in_work = batch
        losses, weights, shows_image = self.compute(token_losses, batch)
        self.bad_steps.origins.append(batch.origins)
        self.step_sums.append(sums_by_modality(losses, weights, shows_image))
        return torch.dot(losses, weights) * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the summed gradient by the weight of the whole step, over all processes."""
        own = torch.stack(self.step_sums)
        sums = self.trainer.strategy.reduce(own.sum(0), reduce_op="sum")
        loss_sum, weight_sum = sums.sum(0).unbind()
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.mul_(self.trainer.world_size / weight_sum)
        self.step_sums.clear()
        if self.bad_steps.judge(self.trainer, loss_sum / weight_sum, own[:, :, 0].sum(1), gradients):
            optimizer.zero_grad(set_to_none=True)  # without gradients the optimizer does nothing
            return
        self.log("train/loss", loss_sum / weight_sum, prog_bar=True)
        self.log_modalities(sums)

    def log_modalities(self, sums: Tensor) -> None:
        """Loss of rows of text and of rows with an image, each a mean since the log's last line."""
        self.modality_sums.append(sums)
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        for modality, (loss_sum, weight_sum) in zip(
            ("text", "image"), torch.stack(self.modality_sums).sum(0), strict=True
        ):
            if weight_sum > 0:
                self.log(f"train/loss_{modality}", loss_sum / weight_sum)
        self.modality_sums.clear()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a group for each part; warm-up and cosine by optimizer step."""
        optimizer = make_optimizer(self.network, self.plan, self.lr, self.betas, self.weight_decay)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, self.warmup_steps, total_steps, self.final_lr_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation: the loss over all learnt tokens, and answers by generation.

    def validation_step(self, batch: Batch | Prompts, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss on a `Batch`, generated answers on `Prompts`."""
        self.in_work = batch
        if isinstance(batch, Prompts):
            self.answers += self.answer(batch)
        else:
            self.validation_sums.append(torch.stack(self.compute(supervised_loss, batch)))

    def on_validation_epoch_end(self) -> None:
        if self.validation_sums:
            sums = self.trainer.strategy.reduce(torch.stack(self.validation_sums).sum(0), reduce_op="sum")
            self.validation_sums.clear()
            self.log("val/loss", sums[0] / sums[1], prog_bar=True)
        self.log_scores("val", "validation")

    def log_scores(self, prefix: str, split: str) -> None:
        """Log the metrics of the answers given since the last time, by all processes to the questions of a split."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        answers = gather_answers(self.answers, data.rows(split))
        self.answers = []
        for name, value in score(answers).items():
            self.log(f"{prefix}/{name}", value, prog_bar=name == "relaxed_accuracy")

    def answer(self, prompts: Prompts) -> list[Answer]:
        """A record of each prompt."""

        def answer(network: PreTrainedModel, prompts: Prompts) -> list[Answer]:
            return answer_prompts(network, self.processor.tokenizer, prompts, self.max_new_tokens)

        answers: list[Answer] = self.compute(answer, prompts)
        return answers

    # Test and prediction: answers alone.

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Generated answers, to be scored."""
        self.answers += self.answer(batch)

    def on_test_epoch_end(self) -> None:
        self.log_scores("test", "test")

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[Answer]:
        """Generated answers, scored or not."""
        return self.answer(batch)

    # Checkpoints hold what trains; the base is in its own folder.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained tensors only."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trained}
        checkpoint["bad_steps"] = self.bad_steps.seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another plan: loading is not strict, so a difference would pass silently."""
        self.bad_steps.seen = checkpoint.get("bad_steps", 0)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        saved = set(checkpoint["state_dict"])
        if trained != saved:
            raise UserError(
                f"the checkpoint to resume from trained {len(saved)} tensors, this recipe trains {len(trained)} "
                f"(differing, e.g.: {sorted(trained ^ saved)[0]}). Resume with the recipe that wrote it."
            )


def torch_dtype(name: str) -> torch.dtype:
    """float32, bfloat16 or float16 by name.

    Raises:
        UserError: another name.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise UserError(f"model.dtype: {name!r}; expected one of {', '.join(dtypes)}.")
    return dtypes[name]
