#!/bin/sh
# run.sh PYTHON ARGUMENTS...: check_operators.py, or one clear failure if it cannot run.
python=$1
shift
if ! "$python" -c 'import numpy'; then
  echo "The black-box tests need NumPy: apt-get install python3-numpy (or set Python3_EXECUTABLE)"
  exit 1
fi
exec "$python" "$(dirname "$0")/check_operators.py" "$@"
