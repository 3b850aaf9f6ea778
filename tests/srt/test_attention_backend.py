"""`--attention-backend blend` is known to SGLang, and the default where there is no accelerator."""

from typing import Any

import pytest

from sglang_blend.demo_model import demo_model_path

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("sglang")


@pytest.mark.parametrize(
    ("flags", "backend", "shares"),
    [([], "blend", True), (["--attention-backend", "torch_native"], "torch_native", False)],
)
def test_the_backend_that_serves(flags: Any, backend: str, shares: bool) -> None:
    from sglang_blend.srt.attention_backend import shares_reads
    from sglang_blend.srt.flags import server_args

    args = server_args(["--model-path", str(demo_model_path()), *flags])
    assert args.attention_backend == backend
    assert shares_reads(args) is shares


def test_sharing_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan then counts every read."""
    from sglang_blend.srt.attention_backend import shares_reads
    from sglang_blend.srt.flags import server_args
    from sglang_blend.srt.options import VARIABLE

    args = server_args(["--model-path", str(demo_model_path())])
    monkeypatch.setenv(VARIABLE, '{"shared_prefix_attention": false}')
    assert not shares_reads(args)


def test_no_triton_kernels_without_an_accelerator() -> None:
    """SGLang asks by the backend's name whether it may launch Triton kernels for its index tables."""
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.mem_cache import allocation
    from sglang.srt.model_executor import forward_batch_info

    for module in (allocation, forward_batch_info):
        assert not module.support_triton("blend")
        assert module.support_triton("triton")
