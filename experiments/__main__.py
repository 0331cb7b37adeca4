"""Run experiments afresh, compare what they find with what is kept, and say what follows.

    python -m experiments [--keep] [name ...]     (all by default)

What ran before it was interrupted, from the same source, is not run again. With ``--keep`` the
fresh records replace the kept ones.
"""

import argparse
import os
import sys

from experiments.claims import verdicts
from experiments.records import FRESH, KEPT, Record, differences, module_of, names, run_all, todo

#: Runs of one process. TensorFlow keeps the loops that it has traced, and with them all images.
AT_MOST = 50


def main() -> int:
    """Run, compare, and return how many differ."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m experiments")
    parser.add_argument("names", nargs="*", default=names(), metavar="name")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.names:
        if todo(name, run_all(name, AT_MOST)):
            os.execv(sys.executable, sys.orig_argv)  # which goes on from here
    unlike = 0
    for name in arguments.names:
        fresh = Record(name, FRESH)
        print(f"{name}: {fresh.seconds:.0f} s")
        print(verdicts(getattr(module_of(name), "CLAIMS", []), fresh))
        if arguments.keep:
            fresh.write(KEPT / f"{name}.json")
            continue
        found = list(differences(fresh, Record(name)))
        unlike += bool(found)
        print("\n".join(found) or "as it was, within the scatter of the seeds")
    return unlike


if __name__ == "__main__":
    raise SystemExit(main())
