FROM python:3.12-slim
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
RUN uv sync --frozen --no-dev && useradd --create-home headrace \
    && mkdir -p /var/lib/headrace && chown headrace /var/lib/headrace
USER headrace
ENV PATH=/app/.venv/bin:$PATH
EXPOSE 6066
# A worker listens only after its models have been tried: the first 15 s are no failure.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${HEADRACE_WEB__PORT:-6066}/readyz', timeout=5)"
ENTRYPOINT ["headrace"]
CMD ["--help"]
