"""What a scheduler decides at run time, whole, for any host: no sglang, tested without it.

    scheduler.py      who is next: what happened since, and what follows from it
    host.py           what the scheduler asks of the engine that it decides for
    admission.py      one prefill pass: leader rule, expected peak, backfill
    arrivals.py       place, side and expected length of a request that comes
    hints.py          what a request carries from the plan
    online_plan.py    places for requests without hints
    request_state.py  one request; those that wait, by side and rank
    running.py        those that run, as columns
    balance.py        which side goes next, by the memory that each holds
    in_flight.py      prefixes that are being computed
    lengths.py        how long outputs turn out
    peak.py           whether memory will suffice
    pacing.py         how fast prefill goes beside decode
    step_records.py   what the steps were like, for the report
    switches.py       what can be switched off, and what is counted

`srt.policy` and `srt.prefill_adder` put it into SGLang's seams, `simulate.host` into a modelled engine.
"""
