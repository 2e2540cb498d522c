"""Rewrite the golden answers, or compare them bit for bit.

    python -m tests.golden.record                  rewrite answers.json, bad_inputs.json, model.json
    python -m tests.golden.record --check-exact    write nothing; fail if one bit differs

Run it in the root of the repository. Rewrite only with a stated reason in the commit message.
"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check-exact"]):
        sys.exit(__doc__)
    os.environ["GOLDEN"] = "exact" if sys.argv[1:] == ["--check-exact"] else "write"
    test = Path(__file__).with_name("test_golden.py")
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", str(test)]))
