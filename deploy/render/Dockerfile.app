# An app's image with Nearkey in it, for platforms that run one container a service (Render, Railway, Heroku's kind).
# Put these lines into your own Dockerfile; everything between the marks is yours.
ARG NEARKEY=nearkey:0.1.0
# hadolint ignore=DL3006
FROM ${NEARKEY} AS nearkey

FROM python:3.13-slim
# ---- your app
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
# ---- end of your app

COPY --from=nearkey /nearkey /usr/local/bin/nearkey
COPY --chmod=755 with-nearkey /usr/local/bin/with-nearkey
USER 65532:65532
# REDIS_URL, or what else names the server, stays the variable of the service; the app gets localhost.
ENTRYPOINT ["with-nearkey"]
CMD ["python", "main.py"]
