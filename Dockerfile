# The image of the service: `docker build -t holdsvc .`; compose.yaml is a complete set-up.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/holdsvc
# Packages first, so that this layer is reused until their versions change.
COPY constraints.txt pyproject.toml LICENSE ./
RUN mkdir -p src/holdsvc generated/inventoryhold generated/buf protos/inventoryhold protos/buf protos/google \
    && touch src/holdsvc/__init__.py README.md protos/README.md protos/buf.yaml \
    && /opt/holdsvc/bin/pip install -c constraints.txt '.[server,otel,relay]' \
    && /opt/holdsvc/bin/pip uninstall --yes holdsvc
COPY README.md ./
COPY src src
COPY generated generated
COPY protos protos
RUN /opt/holdsvc/bin/pip install --no-deps .

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="holdsvc" \
      org.opencontainers.image.description="Inventory holds over gRPC, HTTP and PostgreSQL" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/holdsvc /opt/holdsvc
# PostgreSQL refuses to run as root, and few containers may create user namespaces, so the image has its own user.
RUN groupadd --system --gid 10001 holdsvc \
    && useradd --system --uid 10001 --gid holdsvc --home-dir /var/lib/holdsvc --create-home --shell /usr/sbin/nologin holdsvc
ENV PATH=/opt/holdsvc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOLDSVC_LISTEN=0.0.0.0:50051 \
    HOLDSVC_HTTP_LISTEN=0.0.0.0:8080 \
    HOLDSVC_METRICS_LISTEN=0.0.0.0:9464 \
    HOLDSVC_DATA_DIR=/var/lib/holdsvc/data
USER 10001:10001
WORKDIR /var/lib/holdsvc
# Used only with the embedded PostgreSQL (HOLDSVC_DSN is empty).
VOLUME /var/lib/holdsvc
EXPOSE 50051 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["holdsvc", "health"]
ENTRYPOINT ["holdsvc"]
CMD ["serve"]
