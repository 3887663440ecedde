"""The network of DeepSeek-VL2, made of transformers' blocks; importing it registers the model."""

from dsvl_tune.families.deepseek_vl2.modeling.model import DeepseekVL2ForConditionalGeneration

__all__ = ["DeepseekVL2ForConditionalGeneration"]
