"""KV reads of decode when requests that share a prefix read it once a step.

A request then pays its own tokens and its part of what it reads with others. Who shares a prefix runs side by
side in every order that keeps sharing, as many as the KV pool holds, so a node's tokens are divided by

    readers = min(requests under the node, (pool - depth) / mean private tokens of these requests)

where a request's private tokens are its prompt below the node and half of its output. That is an estimate:
at the beginning and the end of a group fewer run together.
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.cost_model import CostModel, FloatArray, IntArray


def read_len(
    cost: CostModel,
    *,
    prompt_len: IntArray,
    output_len: IntArray | FloatArray,
    leaf_node: IntArray,
    node_parent: IntArray,
    node_depth: IntArray,
) -> FloatArray:
    """Prompt tokens that each request pays for in a decode step.

    Args:
        cost: whose attention it is.
        prompt_len, output_len: (n,) tokens of each request.
        leaf_node: (n,) int64, the deepest shared prefix of each request.
        node_parent: (m,) int64, parents stand before their children; node 0 is the root and its own parent.
        node_depth: (m,) int64, tokens from the root to the end of each prefix; 0 for the root.

    Returns:
        (n,) float64, tokens; `prompt_len` where nothing is shared or attention does not share it.
    """
    prompt = prompt_len.astype(np.float64)
    if not cost.shares_reads:
        return prompt
    num_nodes = len(node_parent)
    count = np.bincount(leaf_node, minlength=num_nodes).astype(np.float64)
    tokens = np.bincount(leaf_node, weights=prompt + np.asarray(output_len) / 2.0, minlength=num_nodes)
    for node in range(num_nodes - 1, 0, -1):
        count[node_parent[node]] += count[node]
        tokens[node_parent[node]] += tokens[node]
    private_len = np.maximum(tokens / np.maximum(count, 1.0) - node_depth, 1.0)
    readers = np.clip(np.minimum(count, (cost.kv_pool_tokens - node_depth) / private_len), 1.0, None)
    saved = cost.shared_gain_tokens(readers, node_depth - node_depth[node_parent]) / readers
    saved[:1] = 0.0
    for node in range(1, num_nodes):
        saved[node] += saved[node_parent[node]]
    less: FloatArray = prompt - saved[leaf_node]
    return less
