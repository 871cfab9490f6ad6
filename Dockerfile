# diffuzz with its extras, for jobs that run in a container. It was written without a place to build it in: untested.
#
#     docker build -t diffuzz .
#     docker run --rm -v "$PWD:/work" diffuzz search --target softmax --candidate kernels.py:soft_max
#
# ggml builds its library from source, which takes minutes: --build-arg EXTRAS=gguf,safetensors,torch,test does without.
FROM python:3.12-slim
ARG EXTRAS=gguf,safetensors,ggml,torch,test
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/diffuzz
COPY pyproject.toml README.md LICENSE ./
COPY diffuzz diffuzz
COPY strategies strategies
RUN python -m pip install --no-cache-dir ".[$EXTRAS]"
# The folder of the kernels and the corpus.
WORKDIR /work
ENTRYPOINT ["python", "-m", "diffuzz"]
CMD ["--help"]
