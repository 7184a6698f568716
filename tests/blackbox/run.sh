#!/bin/sh
# run.sh PYTHON SCRIPT ARGUMENTS...: a script of this folder, or one clear failure if it cannot run.
python=$1
script=$2
shift 2
if ! "$python" -c 'import numpy'; then
  echo "The black-box tests need NumPy: apt-get install python3-numpy (or set Python3_EXECUTABLE)"
  exit 1
fi
exec "$python" "$(dirname "$0")/$script" "$@"
