"""Before anything imports torch, in the tests and in the kernels that nbval starts."""

import os

# GNU OpenMP's threads wait by spinning: beside other work, a step of two threads takes twenty
# times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Side by side, each of pytest's processes has its share of the cores.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    share = (os.cpu_count() or 1) // int(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
