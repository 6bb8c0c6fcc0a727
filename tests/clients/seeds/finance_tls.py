# Use environment variables for all secrets
REDIS_PASSWORD = os.environ['REDIS_PASSWORD']

# Enable TLS for all external connections
redis_client = redis.Redis(
    host=REDIS_HOST,
    port=REDIS_PORT,
    password=REDIS_PASSWORD,
    ssl=True,  # Always use TLS for external providers
    ssl_cert_reqs='required'
)
