#!/usr/bin/env bash
# Everything the tests need, then lint, types and the tests against the real servers. Arguments go to pytest.
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/features -x
#
# RECSYS_DATA names a folder with public data sets (online_retail_ii/…); without it the packaged demo data is used.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment .venv pipeline.txt test.txt
make_environment .venv-triton triton.txt

cd "$root"
export RECSYS_TRITON_PYTHON="${RECSYS_TRITON_PYTHON:-$root/.venv-triton/bin/python}"
unset RECSYS_HOME RECSYS_REDIS_URL RECSYS_TRITON_URL RECSYS_AS_OF
# Small matrices on shared cores: one thread each is several times faster than a fight over them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

.venv/bin/pip check
.venv-triton/bin/python -m pip check
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy recsys_plugin
# One folder at a time: each has a conftest of its own.
for folder in tests tests/*/; do
  if compgen -G "$folder/*.py" >/dev/null; then .venv/bin/mypy "$folder"/*.py; fi
done
if [ "$#" -gt 0 ]; then exec .venv/bin/pytest "$@"; fi
exec .venv/bin/python scripts/run_tests.py --durations=15
