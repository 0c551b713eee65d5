"""What holds for every test: no setting of the developer's own machine, no deadline on examples."""

from __future__ import annotations

import os

from hypothesis import settings

# Both override what a test configures, and servers started by tests inherit them.
for name in [name for name in os.environ if name.startswith(("MLSERVER_", "OTEL_"))]:
    del os.environ[name]

# Where lscpu cannot count the cores, joblib would warn of it, and warnings are errors here.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(os.cpu_count()))

# How long an example takes says more about the machine than about the code.
settings.register_profile("local", deadline=None)
# Hypothesis brings "ci" itself: the same examples in every run, no deadline.
settings.load_profile("ci" if "CI" in os.environ else "local")
