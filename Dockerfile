# One image for the API and all workers; `python -m app.start` becomes what the container is to be (docs/deploy.md).
ARG PYTHON=python:3.12-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /srv/fewbits
COPY requirements-image.lock ./
RUN python -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-cache-dir --no-compile \
      --prefix /install --no-deps --only-binary :all: --require-hashes -r requirements-image.lock \
 && find /install -depth -type d '(' -name tests -o -path '*/onnx/backend/test' ')' -exec rm -r '{}' ';' \
 && find /install -path '*/botocore/data/*' -prune -type d ! -name s3 ! -name 'sso*' ! -name sts -exec rm -r '{}' + \
 && rm requirements-image.lock
# Nothing can be written where it runs, so bytecode is made now: without it each process starts three times as slowly.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /install -p /usr/local /install
COPY alembic.ini ./
COPY migrations migrations
COPY app app
COPY worker worker
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash app worker migrations

FROM ${PYTHON}
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/fewbits --shell /usr/sbin/nologin fewbits \
 && mkdir -p /var/lib/fewbits/locks /var/lib/fewbits/work \
 && chown -R fewbits:fewbits /var/lib/fewbits \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'site-packages|idlelib|tkinter|lib2to3' \
      "$(python -c 'import os; print(os.path.dirname(os.__file__))')"
COPY --from=build /install /usr/local
COPY --from=build /srv/fewbits /srv/fewbits
WORKDIR /srv/fewbits
ENV FEWBITS_HOME=/var/lib/fewbits FEWBITS_HOST=0.0.0.0 FEWBITS_PORT=8000 ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# Isolated and without site, Python starts in milliseconds: a check must not disturb what is being measured.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IS", "-c", \
  "import socket; c = socket.create_connection(('127.0.0.1', 8000), 4); c.sendall(b'GET /readyz HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in c.recv(16))"]
CMD ["python", "-m", "app.start", "api"]
