"""One job on many engines: the cut of its prefix tree, work stealing, and the replicas on Ray.

    cluster_config    how many, where, with what
    cluster_engine    the engine of a job that is many engines
    partition         the tree cut into a part for each replica; replica_plan: order and cut in one call
    work_queue        the parts as queues that others may take from; window: how much a replica holds
    feeder            feeds each place and takes from others; fleet: keeps a replica in each place
    replica           the driver's side of one; replica_worker: its other side, an actor
    part_writer       answers that replicas write themselves
    ray_cluster       Ray: connection, resources, actors; resources: what an engine needs
    simulated         the same cut and queue against modelled engines

`partition` and `work_queue` are pure. `ray_cluster` and `replica_worker` import Ray, inside their functions.
"""
