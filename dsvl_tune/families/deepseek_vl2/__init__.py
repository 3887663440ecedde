"""DeepSeek-VL2 (Tiny, Small, base): tiles, mixture-of-experts decoders."""
