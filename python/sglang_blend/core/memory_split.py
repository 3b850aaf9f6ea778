"""How the KV memory is divided between the two sides of a dual scan.

What runs shall be as dense as what is left, so the parts of the compute-intensive side L and of the
memory-intensive side R follow from three densities:

    M_L + M_R = M,   M_L * rho(L) + M_R * rho(R) = M * rho(root)

The division is logical: no page belongs to a side. The planner divides so (`dual_scanner`), and so does the
scheduler (`scheduling.balance`). What the paper leaves open is decided here:

- rho(L) = rho(R): any division has the right density; half each.
- rho(root) outside [rho(R), rho(L)]: the nearer side gets everything.
- Infinite rho(L) (no output): M_L is its limit, 0.

Source: BlendServe, arXiv:2411.16102, section 5.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class MemorySplit(NamedTuple):
    """Tokens of the KV pool that each scanner may fill; together the whole pool."""

    mem_left: float
    mem_right: float


def memory_split(
    density_left: float, density_right: float, root_density: float, mem_tokens: float
) -> MemorySplit:
    """M_L and M_R of the paper, with its open cases decided; see the module.

    Args:
        density_left, density_right, root_density: 0 or more, infinite allowed.
        mem_tokens: M, in tokens or any other unit of memory.
    """
    if density_left == density_right:
        return MemorySplit(mem_tokens / 2, mem_tokens / 2)
    if math.isinf(density_left):
        left = mem_tokens if math.isinf(root_density) else 0.0
    elif math.isinf(density_right) or math.isinf(root_density):
        # The list is not sorted (shuffled classes), or the root is above both: the denser side is nearer.
        left = mem_tokens if density_left > density_right else 0.0
    else:
        left = mem_tokens * (root_density - density_right) / (density_left - density_right)
    left = min(max(left, 0.0), mem_tokens)
    return MemorySplit(left, mem_tokens - left)
