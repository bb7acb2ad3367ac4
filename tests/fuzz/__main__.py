"""Random input by hand: `python -m tests.fuzz 20000 [SEED]`."""

import sys
import time

from tests.fuzz.campaign import campaign


def main() -> int:
    """Print what was tried, how it ended and what was wrong."""
    examples = int(sys.argv[1])
    start = time.monotonic()
    tally = campaign(examples, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    ends = ", ".join(f"{count} with exit code {code}" for code, count in sorted(tally.clear.items()))
    took = time.monotonic() - start
    print(f"tried {tally.tried} in {took:.0f} s, clear {sum(tally.clear.values())} ({ends})")
    print(f"wrong {sum(map(len, tally.wrong.values()))} of {len(tally.wrong)} kinds")
    print(f"slowest {tally.slowest[0]:.2f} s: {tally.slowest[1]}")
    for what, cases in tally.wrong.items():
        print(f"{len(cases)} x {what}\n    {min(cases, key=len)}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
