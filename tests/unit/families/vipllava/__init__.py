"""ViP-LLaVA as a model family: CLIP below a language model of another kind than DeepSeek-VL's.

What a family needs at least, and nothing of it is in `dsvl_tune`.
"""
