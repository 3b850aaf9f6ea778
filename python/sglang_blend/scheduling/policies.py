"""The schedule policies of this package, as `--schedule-policy` names them; `srt.policy` executes them."""

POLICIES = ("dual-scan", "stationary")
