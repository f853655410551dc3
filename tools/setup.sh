#!/bin/sh
# Make .venv with everything in requirements.txt and the package itself. Where that is done, do nothing.
# CONSTRAINTS names the versions to take, "" for the newest; TORCH=cpu takes PyTorch's build without CUDA.
set -eu

tested="3.11 to 3.14"
constraints=${CONSTRAINTS-constraints.txt}
finished=.venv/installed # says for what: written last, so that half an installation never counts
begun=.venv/installing   # there from the first step of a new .venv to the last

fail() {
  echo "$*" >&2
  exit 1
}

runs() { "$1" -c '' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
is_tested() { case "$(version "$1" 2>/dev/null)" in 3.11 | 3.12 | 3.13 | 3.14) ;; *) return 1 ;; esac }
is_newer() { case "$(version "$1" 2>/dev/null)" in 3.1[5-9] | 3.[2-9][0-9]) ;; *) return 1 ;; esac }

find_python() {
  newer= other=
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.14 python3.13 python3.12 python3.11; fi
  for name in "$@"; do
    runs "$name" || continue
    is_tested "$name" && python=$name && return
    if is_newer "$name"; then newer=${newer:-$name}; else other=${other:-$name}; fi
  done
  python=$newer
  [ -z "$python" ] || return 0
  hint="install Python $tested, or name one: make PYTHON=/path/to/python3"
  [ -z "$other" ] || fail "Python $(version "$other") ($other) is too old for this book: $hint"
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON does not run: $hint"
  fail "No Python found: $hint"
}

# PyTorch for Linux brings NVIDIA's libraries: 6 GB that stay, and 3 of archives until they are unpacked.
needed_gb() { if [ "$(uname)" = Linux ] && [ "${TORCH:-}" != cpu ]; then echo 9; else echo 3; fi; }

check_disk() {
  free_kb=$(df -Pk . | sed -n 's/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p' | tail -n 1)
  [ "${free_kb:-999999999}" -ge $(($(needed_gb) * 1000000)) ] ||
    fail "The disk is nearly full: about $(needed_gb) GB are needed here, $((free_kb / 1000000)).$((free_kb / 100000 % 10)) GB are free; make room and try again"
}

pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }

install() {
  export TMPDIR="$PWD/.venv/tmp" # on the disk whose room was checked
  mkdir -p "$TMPDIR"
  "$@" >>.venv/pip.log 2>&1 && rm -rf .venv/tmp && return
  rm -rf .venv/tmp
  { grep -iE '^ *(error|fatal)' .venv/pip.log || cat .venv/pip.log; } | tail -n 3 >&2
  if grep -qi 'no space left' .venv/pip.log; then
    fail "The disk is full: about $(needed_gb) GB are needed, and 3 more for pip's cache; make room and try again"
  elif grep -qiE 'retrying|connection|resolv|timed out|no matching distribution' .venv/pip.log; then
    fail "pip could not fetch a package: check the network (and proxy), then try again"
  fi
  fail "pip failed for the reason above; the whole log is .venv/pip.log"
}

here=$(pwd -P)
[ -z "$constraints" ] || [ -r "$constraints" ] || fail "CONSTRAINTS=$constraints cannot be read"
key="$here $(cat requirements.txt pyproject.toml ${constraints:+"$constraints"} | cksum)"
key_before=$(cat "$finished" 2>/dev/null || echo "$here ")
if [ -n "${PYTHON:-}" ] && [ -x .venv/bin/python ] && [ ! -e "$begun" ]; then
  find_python
  [ "$(version "$python")" = "$(version .venv/bin/python)" ] ||
    fail ".venv was made with Python $(version .venv/bin/python), not $(version "$python"): run 'make distclean' first"
fi
if [ -x .venv/bin/python ] && [ "$key_before" = "$key" ]; then
  exit 0
fi

usable() { # not half made, not moved with its folder, and with a Python that is still there
  [ ! -e "$begun" ] && [ "${key_before#"$here "}" != "$key_before" ] &&
    { is_tested .venv/bin/python || is_newer .venv/bin/python; } &&
    .venv/bin/python -m pip --version >/dev/null 2>&1
}
if ! usable; then
  find_python
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "Python $(version "$python") ($python) cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt install python3-venv)"
  check_disk
  echo "Installing PyTorch, Jupyter Book and the rest into .venv with Python $(version "$python"): 2 to 10 minutes, once"
  is_newer "$python" &&
    echo "Python $(version "$python") is newer than those that this book is tested with ($tested): it gets the newest versions" >&2
  rm -rf .venv
  mkdir .venv
  touch "$begun"
  "$python" -m venv .venv >&2 || fail "The virtual environment could not be made, for the reason above"
else
  echo "Bringing .venv up to date: seconds to minutes"
fi
: >.venv/pip.log
# The tested versions may not be there for a newer Python.
[ -n "${CONSTRAINTS+set}" ] || ! is_newer .venv/bin/python || constraints=
set -- -r requirements.txt ${constraints:+-c "$constraints"}
if [ "${TORCH:-}" = cpu ]; then # uv knows where PyTorch keeps its builds
  install pip uv
  install .venv/bin/python -m uv pip install --quiet --python .venv/bin/python --torch-backend cpu "$@"
else
  install pip "$@"
fi
install pip --no-deps --no-build-isolation -e .
rm -f "$begun"
echo "$key" >"$finished"
