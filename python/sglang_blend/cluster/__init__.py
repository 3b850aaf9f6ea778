"""One job on many engines: the cut of its prefix tree, work stealing, and the replicas on Ray.

`partition` and `work_queue` are pure, `simulated` runs them against modelled engines; only `ray_*.py` import
Ray, inside their functions.
"""
