#!/bin/sh
# bundle.sh VENV PYTHON: wheels of the program and of everything that it needs, in one archive, for a machine without
# internet of the same processor type and Python version. The model is inside the program's wheel.
set -eu
venv=$1 python=$2
out=dist/dicom-router-bundle
rm -rf "$out" "$out.tar.gz"
mkdir -p "$out/wheels"
pip="$venv/bin/python -m pip --disable-pip-version-check -q"
range='torch>=2.6,<2.14'
echo "collecting wheels ..."
$pip download --retries 0 --timeout 10 --index-url https://download.pytorch.org/whl/cpu -d "$out/wheels" "$range" 2>/dev/null ||
    $pip download -d "$out/wheels" "$range"
$pip wheel --find-links "$out/wheels" -w "$out/wheels" ".[torch]"
cp README.md LICENSE routing.yaml packaging/dicom-router.service "$out"
cat >"$out/install.sh" <<'INSTALL'
#!/bin/sh
# install.sh [FOLDER]: install from the wheels beside this file, without a network. Default folder: /opt/dicom-router
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-/opt/dicom-router}
python3 -m venv "$folder/.venv"
"$folder/.venv/bin/python" -m pip --disable-pip-version-check -q install \
    --no-index --find-links "$here/wheels" "dicom-router[torch]"
echo "installed. Next: $folder/.venv/bin/dicom-router demo"
INSTALL
chmod +x "$out/install.sh"
"$python" -c 'import platform; print(platform.machine(), "Python", platform.python_version())' >"$out/MADE_FOR"
tar -C dist -czf "$out.tar.gz" dicom-router-bundle
echo "$out.tar.gz: $(du -h "$out.tar.gz" | cut -f1)"
