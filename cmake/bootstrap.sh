#!/usr/bin/env bash
# Sets everything up on a Debian machine, builds by the preset `release`, runs the demo or the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'END'
usage: bash cmake/bootstrap.sh demo|test|build [arguments]

  demo   build the tool, then `build/release/curvature demo [arguments]`
  test   build, then `ctest --preset release [arguments]`
  build  `cmake --build --preset release [arguments]`; the tool is build/release/curvature

Missing Debian packages are installed (without root: named). LibTorch comes from CMAKE_PREFIX_PATH,
else from a `torch` >= 2.11 that python3 can import, else from pip, into build/venv.

  CURVATURE_TORCH_REQUIREMENT  what pip installs; default: torch==2.13.0
  CURVATURE_PIP_INDEX          package index for pip; default: pip's own. Where that offers a CUDA
                               build and there is no CUDA toolkit, name PyTorch's CPU index
  CURVATURE_PRESET             another preset of CMakePresets.json; default: release
END
}

readonly packages=(
  g++ cmake ninja-build python3 python3-venv
  libeigen3-dev libspectra-dev zlib1g-dev libzip-dev nlohmann-json3-dev libcli11-dev
  libgoogle-perftools-dev
  libboost-dev libboost-test-dev
  gnuplot-nox dataset-fashion-mnist)
readonly preset=${CURVATURE_PRESET:-release}
readonly log=build/bootstrap.log
readonly venv_python=build/venv/bin/python

say() { echo "==> $*"; }
fail() {
  echo "bootstrap: error: $*" >&2
  exit 1
}

# Runs a command; its output goes to the log, and is shown if it fails.
quietly() {
  "$@" >"$log" 2>&1 || {
    tail -n 100 "$log" >&2
    fail "this command failed (all of its output: $log): $*"
  }
}

# The same, but somebody who watches sees the output as it comes.
watched() {
  if [[ -t 1 ]]; then "$@"; else quietly "$@"; fi
}

install_packages() {
  command -v dpkg-query >/dev/null || {
    say "Not a Debian system: make sure that you have the equivalents of: ${packages[*]}"
    return
  }
  local package missing=()
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == *" installed" ]] ||
      missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  ((EUID == 0)) || fail "Debian packages are missing; install them, then run this again:
  sudo apt-get install --no-install-recommends ${missing[*]}"
  say "Installing Debian packages: ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --no-install-recommends "${missing[@]}")
  "${install[@]}" >"$log" 2>&1 && return
  quietly apt-get update # the package lists were missing or old
  quietly "${install[@]}"
}

# The first of the given programs that runs: a shim may stand in front of the real one.
first_working() {
  local program
  for program in "$@"; do
    "$program" --version >/dev/null 2>&1 && command -v "$program" && return
  done
  fail "none of these runs: $*"
}

find_cmake() {
  cmake=$(first_working /usr/bin/cmake cmake)
  ninja=$(first_working /usr/bin/ninja ninja)
  local version
  version=$("$cmake" --version | sed -n 's/^cmake version //p')
  [[ $(printf '%s\n' 3.25 "$version" | sort --version-sort | head -n 1) == 3.25 ]] ||
    fail "$cmake has version $version; expected at least 3.25"
}

cuda_toolkit() { command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; }

# Prints the CMake package folder of the LibTorch inside a Python's `torch`. A CUDA build is of no
# use without the CUDA toolkit, which its CMake package asks for.
torch_of() {
  local folder
  folder=$("$1" - <<'END' 2>/dev/null
import importlib.metadata, importlib.util, pathlib, re
assert [int(n) for n in re.findall(r"\d+", importlib.metadata.version("torch"))] >= [2, 11]
print(pathlib.Path(importlib.util.find_spec("torch").origin).parent / "share/cmake/Torch")
END
  ) || return
  [[ -f $folder/TorchConfig.cmake ]] || return
  if [[ -f $folder/../../../lib/libtorch_cuda.so ]]; then cuda_toolkit || return; fi
  echo "$folder"
}

torch_in_prefix_path() {
  local prefix prefixes
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    [[ -f $prefix/share/cmake/Torch/TorchConfig.cmake ]] && echo "$prefix/share/cmake/Torch" && return
  done
  return 1
}

pip_install() {
  if [[ ! -x $venv_python ]]; then
    quietly "$(first_working /usr/bin/python3 python3)" -m venv build/venv
  fi
  local index=()
  if [[ -n ${CURVATURE_PIP_INDEX:-} ]]; then index=(--index-url "$CURVATURE_PIP_INDEX"); fi
  watched "$venv_python" -m pip install --disable-pip-version-check --retries 2 --progress-bar off \
    "${index[@]}" "$@"
}

find_torch() {
  local requirement=${CURVATURE_TORCH_REQUIREMENT:-torch==2.13.0}
  torch_dir=$(torch_in_prefix_path || torch_of python3 || torch_of "$venv_python") && return
  say "Installing $requirement into build/venv"
  pip_install "$requirement" numpy
  torch_dir=$(torch_of "$venv_python") ||
    fail "the installed torch is older than 2.11, or a CUDA build on a machine without the CUDA" \
      "toolkit; set CURVATURE_PIP_INDEX to PyTorch's CPU index (see --help)"
}

# Some tests are Python scripts that use NumPy.
find_python() {
  local candidate
  for candidate in "$venv_python" python3 /usr/bin/python3; do
    if "$candidate" -c 'import numpy' 2>/dev/null; then
      python=$(command -v "$candidate")
      return
    fi
  done
  say "Installing numpy into build/venv"
  pip_install numpy
  python=$venv_python
}

# One job per core, and 3 GiB of memory for each.
job_count() {
  local jobs kib limit cores
  cores=$(env -u OMP_NUM_THREADS nproc) # which it would obey
  kib=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit != max ]] && ((limit / 1024 < kib)); then kib=$((limit / 1024)); fi
  jobs=$((kib / (3 * 1024 * 1024)))
  ((jobs <= cores)) || jobs=$cores
  echo $((jobs > 0 ? jobs : 1))
}

build() {
  mkdir -p build
  install_packages
  find_cmake
  find_torch
  find_python
  [[ $python == /* ]] || python=$PWD/$python
  jobs=$(job_count)
  say "Configuring with LibTorch from $torch_dir"
  local fresh=()
  if ! grep -qsxF "Torch_DIR:PATH=$torch_dir" build/$preset/CMakeCache.txt; then
    fresh=(--fresh) # what the cache remembers belongs to another LibTorch
  fi
  quietly "$cmake" "${fresh[@]}" --preset "$preset" -D "Torch_DIR:PATH=$torch_dir" \
    -D "CMAKE_MAKE_PROGRAM=$ninja" -D "Python3_EXECUTABLE=$python"
  say "Building with $jobs jobs"
  watched "$cmake" --build --preset "$preset" --parallel "$jobs" "$@"
}

command=${1:-}
shift || true
case $command in
  build) build "$@" ;;
  demo)
    build --target curvature_tool # tests would take most of the time
    say "build/$preset/curvature demo $*"
    exec "build/$preset/curvature" demo "$@"
    ;;
  test)
    build
    say "Testing"
    export OMP_NUM_THREADS=1 # tests run side by side
    exec "$(dirname "$cmake")/ctest" --preset "$preset" --parallel "$jobs" "$@"
    ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
