# dsvl-tune for the CPU, or for NVIDIA GPUs (with the NVIDIA container toolkit on the host):
#
#   docker build -t dsvl-tune .
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t dsvl-tune:cuda .
#
#   docker run --rm -v "$PWD:/workspace" --user "$(id -u):$(id -g)" dsvl-tune fit --config charts_lora
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/workspace" dsvl-tune:cuda fit --config recipe.yaml
#
# On Linux, PyPI's torch is the CUDA build and brings its libraries; the other index has the CPU's.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/dsvl-tune
COPY constraints.txt ./
# First and alone: resolved together with the rest, another package could pull in another build.
RUN pip install --constraint constraints.txt --index-url "${TORCH_INDEX}" torch
COPY pyproject.toml README.md LICENSE ./
COPY dsvl_tune ./dsvl_tune
COPY datamodules ./datamodules
COPY recipes ./recipes
RUN pip install --constraint constraints.txt ".[qlora,sweep]" \
    && useradd --uid 1000 --create-home user \
    && mkdir /workspace \
    && chown user /workspace

USER 1000
WORKDIR /workspace
# Any user id may cache here, e.g. that of `docker run --user`.
ENV HF_HOME=/workspace/.cache/huggingface \
    XDG_CACHE_HOME=/workspace/.cache
ENTRYPOINT ["dsvl-tune"]
CMD ["--help"]
