# syntax=docker/dockerfile:1
# The node in a container. TORCH=cpu (default) or TORCH=cuda:
#   docker build -t dicom-router .
#   docker build -t dicom-router:cuda --build-arg TORCH=cuda .

FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# PyTorch first: it is the large layer, and it changes least often.
RUN if [ "$TORCH" = cuda ]; then pip install "torch>=2.6,<2.14"; \
    else pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.6,<2.14"; fi
WORKDIR /src
COPY pyproject.toml README.md LICENSE routing.yaml ./
COPY models ./models
COPY router ./router
# hadolint ignore=DL3013
RUN pip install ".[fast,postgres]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="dicom-router" \
      org.opencontainers.image.description="Looks at the pixels of X-rays and forwards each to the AI node that knows its body part" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 router && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin router \
    && mkdir -p /etc/dicom-router /var/lib/dicom-router \
    && chown router:router /var/lib/dicom-router && chmod 0700 /var/lib/dicom-router
COPY --from=build /opt/venv /opt/venv
COPY docker/routing.yaml /etc/dicom-router/routing.yaml
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
# Everything that is written goes to the spool, so that the root file system can be read-only.
VOLUME /var/lib/dicom-router
EXPOSE 11112 8080
# SIGTERM drains within 8 s; give it more than that: docker run --stop-timeout 20, stop_grace_period in compose.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["dicom-router"]
CMD ["serve", "--config", "/etc/dicom-router/routing.yaml"]
