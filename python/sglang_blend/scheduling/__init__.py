"""What the scheduler decides while a job runs, in plain Python and numpy: no sglang, tested without it.

In data-flow order: `hints` (what a request carries from the plan), `lengths` (how long outputs turn out),
`online_plan` (ranks for requests without hints), `waiting` (who waits, by side and rank), `balance` (which
side goes next), `front` (the queue's head), `in_flight` (prefixes being computed), `peak` (whether memory
will suffice). `sglang_blend.srt` puts them into SGLang's seams.
"""
