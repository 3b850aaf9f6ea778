"""What work costs on a machine: hardware, model shapes, and the roofline that joins them.

    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("H200"))

In data-flow order: `hardware` (records of machines, the calibrated one first), `model_shape`, `hf_config` and
`shape_registry` (shapes of models), `measured` (rates and curves that take precedence), `break_even` (when a
shared read pays), `roofline` (the cost model), `of_engine` (that of a running engine), `step_use` (what one
step needs), `sm_split` (a device divided between prefill and decode), `segments` (a job's shared prompts),
`bounds` (what no order can beat). Only numpy and the standard library.
"""
