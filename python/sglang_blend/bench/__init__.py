"""The same batch file under several schedule policies: same flags, fresh cache, several shuffles.

`matrix` says what is run, `worker` runs one policy in a process of its own, `comparison` puts the runs side
by side. All of it runs the real engine. `trace_summary` says where a profiled step spent its time.
"""
