#!/usr/bin/env bash
# The ranking stage on a GPU against the CPU: no network, no servers, no trained shop.
#
#   bash scripts/bench_gpu.sh
#   bash scripts/bench_gpu.sh --device cpu --json report.json
#   bash scripts/bench_gpu.sh --repository model_repository
#
# It takes the first Python that can use a GPU, else the first with PyTorch or onnxruntime; PYTHON names one.
# Ends with 0 when measured, 2 when there is no GPU, 3 when GPU and CPU answer differently.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Prints 2 if this Python can use a GPU, 1 if it can run the stage, 0 if not.
ability='
import sys
found = 0
if sys.version_info >= (3, 11):
    try:
        import numpy
        try:
            import torch
            found = 2 if torch.cuda.is_available() else 1
        except ImportError:
            import onnxruntime
            found = 2 if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else 1
    except ImportError:
        pass
print(found)
'

chosen="" best=0
candidates=("$root/.venv/bin/python" python3 python python3.13 python3.12 python3.11)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
for candidate in "${candidates[@]}"; do
  command -v "$candidate" >/dev/null || continue
  able="$("$candidate" -c "$ability" 2>/dev/null || echo 0)"
  if [ "$able" -gt "$best" ]; then chosen="$candidate" best="$able"; fi
  if [ "$best" -eq 2 ]; then break; fi
done
if [ -z "$chosen" ]; then
  echo "bench_gpu: no Python 3.11 or later here has numpy and PyTorch or onnxruntime; PYTHON may name one" >&2
  exit 2
fi
exec "$chosen" -m recsys_plugin.bench.gpu "$@"
