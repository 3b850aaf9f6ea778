"""The CPU platform: subclasses of the host, imported lazily by `sglang_blend.srt.platform`, and a hook."""
