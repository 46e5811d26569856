"""Random calls and mutated files for FUZZ_SECONDS, 60 where it is not set; 1 on a fault.

TRITON_INTERPRET=1 python -m tests.fuzz
"""

import faulthandler
import os
import random
import resource
import sys
import time
import warnings

from tests.fuzz import calls, files, folders, trainings, wrong
from tests.fuzz.target import Target

MOST_BYTES = 16 << 30  # of address space: what promises more than it holds is not allocated


def main() -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60"))
    targets = [
        Target("calls", calls.calls(), calls.check),
        Target("files", files.files(), files.check),
        Target("folders", folders.folders(), folders.check),
        Target("trainings", trainings.trainings(), trainings.check),
        Target("wrong calls", wrong.wrong_calls(), wrong.check),
    ]
    while time.monotonic() < end:
        # The quicker one would else have most of the examples, the slower most of the time.
        target = min(targets, key=lambda target: target.seconds)
        target.run(examples=20, seed=random.getrandbits(32), end=end)
    for target in targets:
        print(f"{target.tried} {target.name} tried, {len(target.faults)} faults")
    sys.exit(any(target.faults for target in targets))


if __name__ == "__main__":
    main()
