"""Many runs: products of options become runs, and runs that share programs are executed together.

Enters: the specification of a study, its plan, and the workers that carry it out.
Open first: `spec.py`, then `plans.py` and `worker.py`; for searches `space.py`, then `search.py`.
"""

from fjt.study.spec import choose

__all__ = ["choose"]  # for configs
