"""Parts for NVIDIA GPUs that subclass the host: imported lazily, and only where there is one."""
