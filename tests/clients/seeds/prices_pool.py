# Global variable (reused across Lambda invocations)
_redis_client = None

def get_redis_client():
    global _redis_client
    if _redis_client is None:
        _redis_client = redis.Redis(
            host=os.environ['REDIS_ENDPOINT'],
            port=6379,
            decode_responses=True,
            ssl=True,
            socket_connect_timeout=5,
            socket_timeout=5,
            connection_pool=redis.ConnectionPool(
                max_connections=10
            )
        )
    return _redis_client
