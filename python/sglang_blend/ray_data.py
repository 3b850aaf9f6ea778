"""Planned generation inside a Ray Data pipeline.

    import ray
    from sglang_blend.ray_data import generate

    prompts = ray.data.read_parquet("prompts.parquet")
    params = {"max_new_tokens": 256}
    answers = generate(prompts, model_path="Qwen/Qwen3-8B", replicas=8, sampling_params=params)
    answers.write_parquet("answers")

Each replica is an actor with an engine of its own, which gets whole batches of rows and plans inside each of
them: prefixes that are shared within a batch are computed once, and its compute-intensive and
memory-intensive rows run side by side. Nothing is planned across batches, so make them large (`batch_size`)
and bring rows that share a prefix together first, for example with `dataset.sort(column)`. For a plan over
all of the job, with work stealing and resume, write the rows to a file and use `launch_offline --replicas`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sglang_blend.cluster.resources import resources_of
from sglang_blend.errors import ConfigError
from sglang_blend.extras import require_extra

if TYPE_CHECKING:
    import ray.data

DEFAULT_BATCH_SIZE = 4096


class PlannedGeneration:
    """A stage for `Dataset.map_batches`: adds the generated text and token counts to each row."""

    def __init__(
        self,
        column: str,
        output_column: str,
        sampling_params: Mapping[str, Any],
        engine_args: Mapping[str, Any],
    ) -> None:
        """Start an engine; in an actor.

        Args:
            column: of prompts: text, or lists of token ids.
            output_column: gets the generated text; `{output_column}_error` says why there is none.
            sampling_params: SGLang's, for all rows.
            engine_args: of `sglang_blend.Engine`.
        """
        from sglang_blend import Engine

        self._column, self._output_column = column, output_column
        self._sampling_params = dict(sampling_params)
        self._engine = Engine(**engine_args)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Args: batch: columns as numpy arrays or lists, as Ray Data hands them over."""
        column = batch[self._column]
        given = column.tolist() if hasattr(column, "tolist") else list(column)
        kind = "prompt" if all(isinstance(prompt, str) for prompt in given) else "input_ids"
        if kind == "input_ids":
            given = [list(map(int, prompt)) for prompt in given]
        answers = self._engine.generate(
            **{kind: given}, sampling_params=self._sampling_params, on_error="return"
        )
        name = self._output_column
        counts = [answer["meta_info"] for answer in answers]
        return {
            **batch,
            name: [answer.get("text") for answer in answers],
            f"{name}_error": [(answer.get("error") or {}).get("message") for answer in answers],
            f"{name}_prompt_tokens": [count.get("prompt_tokens", 0) for count in counts],
            f"{name}_cached_tokens": [count.get("cached_tokens", 0) for count in counts],
            f"{name}_output_tokens": [count.get("completion_tokens", 0) for count in counts],
        }


def generate(
    dataset: ray.data.Dataset,
    *,
    column: str = "prompt",
    output_column: str = "generated",
    sampling_params: Mapping[str, Any] | None = None,
    replicas: int = 1,
    batch_size: int | None = DEFAULT_BATCH_SIZE,
    **engine_args: Any,
) -> ray.data.Dataset:
    """Generate for each row of a dataset.

    Args:
        dataset: with a column of prompts (text, or lists of token ids).
        column: its name.
        output_column: of the generated text; beside it `_error` and three `_tokens` counts.
        sampling_params: SGLang's, for all rows; None for SGLang's defaults.
        replicas: engines, each with the GPUs that `tp_size` asks for, or a core where Ray has no GPU.
        batch_size: rows that are planned together; None takes whole blocks.
        engine_args: of `sglang_blend.Engine`, which are SGLang's `ServerArgs` (`model_path`, `tp_size` ...).

    Returns:
        The dataset with the new columns, lazily as all of Ray Data. A row that fails has None for a text.

    Raises:
        ConfigError: the number of replicas is none, or Ray is not installed.
    """
    if replicas < 1:
        raise ConfigError(f"replicas is {replicas}; at least 1 is needed.")
    require_extra("ray", "Generating as a stage of Ray Data")
    import ray

    if not ray.is_initialized():
        ray.init()
    resources = resources_of(_flags(engine_args), ray.cluster_resources(), num_replicas=replicas, num_cores=1)
    return dataset.map_batches(
        PlannedGeneration,
        fn_constructor_args=(column, output_column, dict(sampling_params or {}), engine_args),
        batch_size=batch_size,
        concurrency=replicas,
        num_gpus=resources.num_gpus or None,
        num_cpus=None if resources.num_gpus else 1,
    )


def _flags(engine_args: Mapping[str, Any]) -> Sequence[str]:
    """Keyword arguments as the flags they stand for."""
    flags: list[str] = []
    for name, value in engine_args.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value not in (None, False):
            flags += [flag, str(value)]
    return flags
