# The node in a container:  docker build -t dicom-router .
#
# Build arguments:
#   TORCH=cuda       with PyTorch's CUDA build, for a GPU (the image then takes 5.6 GB).
#   TORCH=cpu        with PyTorch's CPU build, to train and adapt models. The default, none, serves, and no more.
#   TORCH_INDEX=URL  a mirror of PyTorch's index of CPU builds, where that index cannot be reached.
#   BASE=IMAGE       another base image with Python 3.11 and the `venv` module, for example one of your own, or the same
#                    one by its digest: python:3.11-slim-bookworm@sha256:... A tag moves on with security updates. A
#                    digest does not, so it stands here only where somebody renews it.
ARG BASE=python:3.11-slim-bookworm

# What the program needs. This is the large layer; it is built again only when a lock file changes.
FROM ${BASE} AS needs
ARG TORCH=none
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY docker/requirements-build.lock /locks/
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r /locks/requirements-build.lock
COPY docker/requirements-${TORCH}.lock tools/prune.sh /locks/
# /opt/app is the program itself, in a layer of its own.
RUN if [ "$TORCH" = cpu ]; then set -- --extra-index-url "$TORCH_INDEX"; fi \
    && python -m venv --without-pip /opt/venv \
    && /opt/build/bin/pip --python /opt/venv/bin/python install "$@" \
        --require-hashes --only-binary :all: -r "/locks/requirements-$TORCH.lock" \
    && packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && /locks/prune.sh "$packages" \
    && echo "/opt/app${packages#/opt/venv}" >"$packages/app.pth"

# The program, and the list of all that is in the image (SBOM, CycloneDX).
FROM needs AS app
COPY pyproject.toml README.md LICENSE routing.yaml /src/
COPY models /src/models
COPY router /src/router
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheel /src \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --no-index --prefix /opt/app /wheel/*.whl \
    && /opt/build/bin/cyclonedx-py environment --output-reproducible -o /opt/app/sbom.cdx.json /opt/venv/bin/python

FROM ${BASE}
LABEL org.opencontainers.image.title="dicom-router" \
      org.opencontainers.image.description="Looks at the pixels of X-rays and forwards each to the AI node that knows its body part" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 router && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin router \
    && mkdir -p /etc/dicom-router /var/lib/dicom-router \
    && chown router:router /var/lib/dicom-router && chmod 0700 /var/lib/dicom-router
COPY --from=needs /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
COPY docker/routing.yaml /etc/dicom-router/routing.yaml
ENV PATH=/opt/app/bin:/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp \
    DICOM_ROUTER_CONFIG=/etc/dicom-router/routing.yaml
# So that `docker exec NODE dicom-router queue list` finds routing.yaml without an option.
WORKDIR /etc/dicom-router
USER 10001:10001
# All that is written goes to the spool, so that the root file system can be read-only.
VOLUME /var/lib/dicom-router
EXPOSE 11112 8080
# SIGTERM drains within 8 s; give it more than that: docker run --stop-timeout 20, stop_grace_period in compose.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=4 CMD ["dicom-router", "health"]
ENTRYPOINT ["dicom-router"]
CMD ["serve", "--config", "/etc/dicom-router/routing.yaml"]
