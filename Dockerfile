FROM python:3.12.11-slim-bookworm
WORKDIR /app
RUN pip install --no-cache-dir "uv>=0.8,<1"
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project
COPY topics topics
COPY operators operators
COPY engine engine
COPY loadtest loadtest
COPY headrace headrace
COPY examples examples
COPY deploy deploy
RUN uv sync --frozen --no-dev && useradd --uid 1000 --create-home headrace \
    && mkdir -p /var/lib/headrace && chown headrace /var/lib/headrace
USER 1000:1000
# Nothing is written under /app: a container may run with a root file system that is read only.
ENV PATH=/app/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 6066
# A worker listens only after its models have been tried: the first 15 s are no failure.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${HEADRACE_WEB__PORT:-6066}/readyz', timeout=5)"
ENTRYPOINT ["headrace"]
CMD ["--help"]
