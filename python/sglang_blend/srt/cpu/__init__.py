"""Parts of the CPU platform that subclass the host: imported lazily, by `sglang_blend.srt.platform` only."""
