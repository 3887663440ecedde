"""The public Python API: fine-tune a model, merge the result, and ask it about images.

Example:
    Fine-tune the embedded model on generated charts, merge the result and ask it::

        import dsvl_tune
        from dsvl_tune.datamodules import ChartsDataModule

        run = dsvl_tune.fit(
            dsvl_tune.FinetuneModule("embedded", preset="lora", lr=2e-3),
            ChartsDataModule(train_charts=640),
            run_name="charts",
            max_steps=80,
        )
        print(run.before["relaxed_accuracy"], run.after["relaxed_accuracy"])
        merged = dsvl_tune.merge(run.folder)
        model = dsvl_tune.load_model(merged.folder)
        print(model.answer("What is the value of the red bar?", "chart.png"))
"""

from __future__ import annotations

from dsvl_tune.api.merging import MergedCheckpoint as MergedCheckpoint
from dsvl_tune.api.merging import merge as merge
from dsvl_tune.api.reports import write_report as write_report
from dsvl_tune.api.training import Run as Run
from dsvl_tune.api.training import fit as fit
from dsvl_tune.core.errors import UserError as UserError
from dsvl_tune.core.family import PartPlan as PartPlan
from dsvl_tune.evaluation.chat_model import ChatModel as ChatModel
from dsvl_tune.evaluation.chat_model import load_model as load_model
from dsvl_tune.training.module import FinetuneModule as FinetuneModule
