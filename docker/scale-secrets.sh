#!/bin/sh
# scale-secrets.sh [HOST]: what docker/compose.scale.yaml needs and nobody should choose: passwords in docker/scale.env, and
# a certificate for the page in docker/scale/web.crt and web.key. Put your own certificate in their place. It writes
# nothing over.
set -eu
cd "$(dirname "$0")"
host=${1:-localhost}
umask 077
if [ ! -e scale.env ]; then
    for name in DATABASE_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY GRAFANA_PASSWORD; do
        echo "$name=$(openssl rand -hex 24)"
    done >scale.env
fi
if [ ! -e scale/web.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$host" \
        -addext "subjectAltName=DNS:$host" -keyout scale/web.key -out scale/web.crt 2>/dev/null
    chmod 644 scale/web.crt
    # The node runs as 10001. Who is not root cannot give it the file, and lets others on this machine read it.
    chown 10001:10001 scale/web.key 2>/dev/null || chmod 644 scale/web.key
fi
echo "docker/scale.env and docker/scale/web.crt are there"
