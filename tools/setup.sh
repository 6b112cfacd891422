#!/bin/sh
# setup.sh VENV PYTHON TORCH EXTRAS: a virtual environment with the project in it, editable.
# TORCH is none, cpu or cuda. The CPU build is a tenth of the size; it comes from PyTorch's own index, or, where that
# cannot be reached, from wherever pip is configured to look.
set -eu
venv=$1 python=$2 torch=$3 extras=$4
here=$(cd "$(dirname "$0")" && pwd)

"$here/system-packages.sh" "$python" python3-venv
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed ($("$python" --version) found): make PYTHON=python3.12 ..." >&2
    exit 2
fi
free=$(df -Pm . | awk 'NR==2 {print $4}')
if [ "$free" -lt 2000 ]; then
    echo "warning: $free MB free here; the installation takes about 1.5 GB (0.4 GB with TORCH=none, 8 GB with cuda)" >&2
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check -q"

if [ "$torch" != none ]; then extras="torch${extras:+,$extras}"; fi
if [ "$torch" != none ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    range='torch>=2.6,<2.14'
    echo "installing PyTorch ($torch build) ..."
    if [ "$torch" = cuda ]; then
        $pip install "$range"
    else
        $pip install --retries 0 --timeout 10 --index-url https://download.pytorch.org/whl/cpu "$range" 2>/dev/null ||
            $pip install "$range"
    fi
fi
echo "installing dicom-router${extras:+ with $extras} ..."
$pip install -e ".${extras:+[$extras]}"
if [ "$torch" = none ]; then
    "$here/prune.sh" "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
fi
