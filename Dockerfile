# One image for Airflow, MLflow, the dashboard and the commands that the DAGs run.
FROM python:3.11.14-slim-bookworm

# LightGBM needs the OpenMP runtime; nothing is compiled here, every wheel is binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/tierhouse --shell /usr/sbin/nologin tierhouse \
    && install --directory --owner tierhouse --group tierhouse /opt/tierhouse /var/lib/tierhouse

WORKDIR /opt/tierhouse
COPY requirements.lock ./
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --requirements requirements.lock

COPY --chown=tierhouse:tierhouse . .
RUN uv pip install --system --no-cache --no-deps --editable .

USER tierhouse
ENV AIRFLOW_HOME=/var/lib/tierhouse/airflow \
    TIERHOUSE_HOME=/var/lib/tierhouse \
    PYTHONUNBUFFERED=1
VOLUME /var/lib/tierhouse
