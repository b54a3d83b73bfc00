#!/usr/bin/env bash
# Pin again: resolve pyproject.toml in fresh environments and write scripts/requirements/*.txt. Review the diff, then run the tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python="$(find_python)"

# pinned FOLDER: the installed versions; local build tags such as +cpu name no release of the registry.
pinned() { "$1/bin/pip" freeze --all --exclude-editable --exclude recsys-plugin --exclude pip | sed -E 's/\+[a-z0-9.]+$//'; }

"$python" -m venv "$work/pipeline"
"$work/pipeline/bin/pip" install --quiet "$root[pipeline]" 'setuptools>=77'
pinned "$work/pipeline" >"$work/pipeline.txt"
"$work/pipeline/bin/pip" install --quiet "$root[pipeline,test]"
pinned "$work/pipeline" | grep -vxFf "$work/pipeline.txt" >"$work/test.txt"
"$python" -m venv "$work/triton"
"$work/triton/bin/pip" install --quiet nvidia-pytriton 'numpy<2' onnxruntime tokenizers
pinned "$work/triton" >"$work/triton.txt"

cd "$root/scripts/requirements"
{ echo "# Written by scripts/lock.sh: serving, training and the command line."; cat "$work/pipeline.txt"; } >pipeline.txt
{ echo "# Written by scripts/lock.sh: what the tests need besides."; cat "$work/test.txt"; } >test.txt
{
  echo "# Written by scripts/lock.sh: the server's own environment; its Python backend is built against numpy 1."
  cat "$work/triton.txt"
} >triton.txt
