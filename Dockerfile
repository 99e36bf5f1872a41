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
ENTRYPOINT ["headrace"]
CMD ["--help"]
