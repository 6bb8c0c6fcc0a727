import redis
import json
import os

# Initialize Redis client
redis_client = redis.Redis(
    host=os.environ.get('REDIS_ENDPOINT', 'localhost'),
    port=6379,
    decode_responses=True,
    ssl=True  # Enable SSL for production
)

# Set latest price
def cache_latest_price(symbol, price_data):
    key = f"price:{symbol}"
    redis_client.hset(key, mapping=price_data)
    redis_client.expire(key, 300)  # 5 minutes TTL

# Get latest price
def get_latest_price(symbol):
    key = f"price:{symbol}"
    return redis_client.hgetall(key)

# Cache signal
def cache_signal(symbol, strategy_id, signal_data):
    key = f"signal:{symbol}:{strategy_id}"
    redis_client.setex(
        key,
        3600,  # 1 hour TTL
        json.dumps(signal_data)
    )

# Get signal
def get_signal(symbol, strategy_id):
    key = f"signal:{symbol}:{strategy_id}"
    data = redis_client.get(key)
    return json.loads(data) if data else None
