"""Run one command from a small process, and log its seconds and its peak memory, as JSON.

    python -S measure_process.py INPUT OUTPUT COMMAND...

Linux counts the memory of the process that starts a child as the child's own peak: the starter must be the smaller one.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 300

given, output, *command = sys.argv[1:]
with Path(given).open("rb") as stdin, Path(output).open("wb") as stdout:
    start = time.perf_counter()
    code = subprocess.run(command, stdin=stdin, stdout=stdout, check=False, timeout=TIMEOUT_S).returncode
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, but bytes on macOS
print(json.dumps({"code": code, "seconds": seconds, "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}))
