# Makes the two environments, from pinned versions; sourced by the other scripts. Nothing is done for what is current.
#   .venv          the plugin, Feast, PyTorch, the command line (and the tests, if asked for)
#   .venv-triton   tritonserver from the nvidia-pytriton wheel, with the numpy 1 that its Python backend was built against

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
logs="$root/.recsys/logs"

# A Python that both environments can use: 3.11 or 3.12 (numpy 1.26 has no wheels for later ones). $PYTHON overrides.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "No Python 3.11 or 3.12 found. Install one, or name it: PYTHON=/path/to/python bash $0" >&2
  return 1
}

# make_environment FOLDER REQUIREMENTS...: create the environment and install the pinned packages, unless they are there.
make_environment() {
  local folder="$root/$1" log="$logs/install$1.log" wanted stamp
  shift
  # One stamp for each set of requirements: the tests' set holds the other, and neither undoes the other.
  stamp="$folder/.installed-$(echo "$*" | tr " " "+")"
  wanted="$( (cd "$root/scripts/requirements" && cat "$@"; cat "$root/pyproject.toml") | sha256sum | cut -d ' ' -f 1)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$folder/bin/python" -c '' 2>/dev/null; then
    return
  fi
  mkdir -p "$logs"
  echo "… installing $(basename "$folder"), a few minutes (log: ${log#"$root/"})" >&2
  local python files=() file
  python="$(find_python)"
  for file in "$@"; do files+=(-r "$root/scripts/requirements/$file"); done
  rm -f "$stamp"
  "$folder/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$folder" >"$log" 2>&1
  if ! {
    "$folder/bin/pip" install --disable-pip-version-check --no-input "${files[@]}" &&
      if [ "$folder" = "$root/.venv" ]; then
        "$folder/bin/pip" install --disable-pip-version-check --no-input --no-deps --no-build-isolation -e "$root"
      fi &&
      "$folder/bin/pip" check
  } >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "Installing $folder failed; the whole log is $log" >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}
