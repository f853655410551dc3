"""Before anything imports torch, in the tests and in the kernels that nbval starts."""

import os

# GNU OpenMP's threads wait by spinning: beside other work, a step of two threads takes twenty
# times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
