"""DeepSeek-VL, both families: SigLIP-only and hybrid."""
