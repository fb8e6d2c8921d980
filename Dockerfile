# syntax=docker/dockerfile:1
# The workbench for CPUs, or with CUDA=1 for NVIDIA GPUs with vLLM; docs/install.md has the commands.
FROM python:3.11.14-slim-bookworm AS base

# g++ compiles Triton's launchers on a GPU, chromium is for the tests of the app.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 sdpg \
    # Else Docker would make them as root's, for the mounted cache and the working folder.
    && install --directory --owner=sdpg --group=sdpg /home/sdpg/.cache /home/sdpg/workbench
USER sdpg
WORKDIR /home/sdpg/workbench

FROM base AS workbench

ARG CUDA=
COPY --chown=sdpg:sdpg . .
RUN --mount=type=cache,target=/home/sdpg/.cache/pip,uid=1000,gid=1000 \
    if [ -n "$CUDA" ]; then \
        make install && .venv/bin/python -m pip install --editable '.[vllm]'; \
    else \
        PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make install; \
    fi
CMD ["make", "repro"]
