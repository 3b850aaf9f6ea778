"""What the processes that SGLang spawns need to know of us: one environment variable with JSON in it.

SGLang's `ServerArgs` has no room for a plugin's fields, and spawned processes inherit the environment.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, fields

import orjson

from sglang_blend.errors import ConfigError
from sglang_blend.scheduling.switches import SchedulerOptions

VARIABLE = "SGLANG_BLEND_OPTIONS"


@dataclass(frozen=True, kw_only=True)
class BlendOptions(SchedulerOptions):
    """Options of the scheduler's side, beside those of the scheduler itself.

    Attributes:
        demand_aware_eviction: cached prefixes that waiting requests need are evicted last.
        shared_prefix_attention: `--attention-backend blend` reads KV that requests share once a step; False
            reads it for each of them.
        stats_file: where the scheduler of rank 0 appends its steps (`scheduling.step_records`); a job sets it
            to a file beside its output.
        step_counter: what schedulers count their steps in (`step_counter`); a host sets it.
    """

    demand_aware_eviction: bool = True
    shared_prefix_attention: bool = True
    stats_file: str | None = None
    step_counter: str | None = None

    def to_env(self, env: MutableMapping[str, str]) -> None:
        """Hand the options to the processes that are started with `env`."""
        env[VARIABLE] = orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_env(cls) -> BlendOptions:
        """The options of this process.

        Raises:
            ConfigError: the variable holds something else.
        """
        text = os.environ.get(VARIABLE, "{}")
        allowed = [field.name for field in fields(cls)]
        try:
            given = orjson.loads(text)
            return cls(**given)
        except (orjson.JSONDecodeError, TypeError) as e:
            raise ConfigError(
                f"{VARIABLE} is {text!r}; a JSON object with any of {', '.join(allowed)} is allowed."
            ) from e
