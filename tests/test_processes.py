"""Programs that fork from a process with the libraries are as those that Python starts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from processes import distributed, python, succeeded


def test_a_program_has_its_arguments_place_output_and_status(tmp_path: Path) -> None:
    program = (
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A']); print('no', file=sys.stderr); sys.exit(3)"
    )
    done = python("-c", program, "b", 4, environment={"A": "c"}, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"['b', '4'] {tmp_path} c\n", "no\n")


def test_nothing_of_the_package_is_there_before_it_is_asked_for() -> None:
    assert "cmp_rerank" in sys.modules
    done = python("-c", "import sys; print('torch' in sys.modules, 'cmp_rerank' in sys.modules)")
    assert done.stdout == "True False\n"


def test_where_one_fails_the_others_are_ended_and_it_is_told() -> None:
    program = "import os, sys, time; time.sleep(300) if os.environ['RANK'] == '0' else sys.exit('why')"
    begin = time.monotonic()
    with pytest.raises(AssertionError, match="why"):
        succeeded(distributed(2, "-c", program))
    assert time.monotonic() - begin < 200
