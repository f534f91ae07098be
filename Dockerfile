# docker build -t mcdrop .                                                        with the CPU build of torch
# docker build -t mcdrop --build-arg TORCH_INDEX=https://pypi.org/simple .        with CUDA

FROM python:3.11-slim AS dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/venv/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/venv
COPY constraints.txt ./
RUN pip install --retries 2 --timeout 30 --no-deps --extra-index-url "$TORCH_INDEX" -c constraints.txt torch
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

FROM dependencies AS package
COPY . .
RUN pip install --no-deps --no-warn-script-location --root /package .

FROM python:3.11-slim
# Compiled here, because at run time nothing can be written.
RUN python -m compileall -q -x '/(tests?|site-packages)/' /usr/local/lib/python3.11 \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mcdrop \
    && install -d -o mcdrop -g mcdrop /bundles
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /package /
COPY docker/health.py /opt/health.py
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MCDROP_HOST=0.0.0.0 MCDROP_PORT=8000 MCDROP_BUNDLES=/bundles
USER 10001:10001
WORKDIR /tmp
VOLUME /bundles
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/health.py"]
ENTRYPOINT ["mcdrop"]
CMD ["serve"]
