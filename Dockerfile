# Curious in a container, for the CPU or for CUDA: the same image is the Ray head, an attack worker and the study.
#
#     docker build -t curious .
#
# The PyTorch of the locked requirements holds CUDA's libraries and runs on CPUs too. For a smaller image without them give
# requirements of your own, a file beside this one, as the argument REQUIREMENTS.

ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG REQUIREMENTS=requirements.lock

RUN useradd --create-home --uid 10001 curious
WORKDIR /app
COPY ${REQUIREMENTS} ./requirements.lock
RUN pip install --no-cache-dir --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY curious ./curious
COPY server ./server
COPY clients ./clients
COPY studies ./studies
COPY attacks ./attacks
COPY defenses ./defenses
COPY learning ./learning
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && mkdir -p /data /runs /certificates && chown curious /data /runs /certificates
USER curious
ENV CURIOUS_DATA=/data RAY_USAGE_STATS_ENABLED=0 FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
WORKDIR /runs
ENTRYPOINT []
CMD ["curious", "--help"]
