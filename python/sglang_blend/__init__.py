"""sglang-blend: a whole batch file as one planned job on SGLang."""

__version__ = "0.1.0"
