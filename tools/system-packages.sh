#!/bin/sh
# Make sure that Debian packages are there. Installs them when run as root in a container or with CI set;
# elsewhere it only prints the one line to run: a developer's machine is not ours to change.
set -eu

missing=""
for package in "$@"; do
    case "$package" in
        dcmtk) [ -x /usr/bin/dcmsend ] || missing="$missing dcmtk" ;;
        orthanc) [ -x /usr/sbin/Orthanc ] || missing="$missing orthanc" ;;
        orthanc-dicomweb) [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb" ;;
        postgresql) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql" ;;
        libc6-dev) [ -e /usr/include/stdio.h ] || missing="$missing libc6-dev" ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv" ;;
        docker.io) [ -x /usr/bin/docker ] && [ -x /usr/sbin/dockerd ] || missing="$missing docker.io" ;;
        *) command -v "$package" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

in_container() { [ -f /.dockerenv ] || [ -f /run/.containerenv ] || grep -q container= /proc/1/environ 2>/dev/null; }

if [ "$(id -u)" = 0 ] && { [ -n "${CI:-}" ] || in_container; }; then
    echo "installing:$missing"
    # Debian starts a service as soon as its package is installed; this answer forbids it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f $policy' EXIT
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed:$missing. What needs it is skipped; to have it, run:"
    echo "    sudo apt-get install$missing"
fi
