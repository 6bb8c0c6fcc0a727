import os
import redis
from typing import Optional, Any
import streamlit as st


class RedisCache:
    def __init__(self):
        # Support multiple connection methods
        self.redis_url = os.environ.get('REDIS_URL')
        self.redis_host = os.environ.get('REDIS_HOST', 'localhost')
        self.redis_port = int(os.environ.get('REDIS_PORT', 6379))
        self.redis_password = os.environ.get('REDIS_PASSWORD', '')
        self.redis_ssl = os.environ.get('REDIS_SSL', 'false').lower() == 'true'

        # Connection pool for efficiency
        self.pool = redis.ConnectionPool(
            host=self.redis_host,
            port=self.redis_port,
            password=self.redis_password,
            ssl=self.redis_ssl,
            max_connections=50,
            socket_timeout=5,
            socket_connect_timeout=5,
            retry_on_timeout=True,
            health_check_interval=30
        )

        self.client = redis.Redis(
            connection_pool=self.pool,
            decode_responses=False
        )

    def _serialize(self, data: Any) -> bytes:
        """Serialize data for Redis storage"""
        import pickle
        import json

        try:
            # Try JSON first (faster, smaller)
            return json.dumps(data).encode('utf-8')
        except (TypeError, ValueError):
            # Fall back to pickle
            return pickle.dumps(data)

    def _deserialize(self, data: bytes) -> Any:
        """Deserialize Redis data"""
        import pickle
        import json

        try:
            return json.loads(data.decode('utf-8'))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return pickle.loads(data)

    def get(self, key: str) -> Optional[Any]:
        """Get value from Redis"""
        try:
            data = self.client.get(key)
            return self._deserialize(data) if data else None
        except Exception as e:
            st.error(f"Redis GET error: {str(e)}")
            return None

    def set(self, key: str, value: Any, ttl: int = 3600) -> bool:
        """Set value in Redis"""
        try:
            serialized = self._serialize(value)
            return self.client.setex(key, ttl, serialized)
        except Exception as e:
            st.error(f"Redis SET error: {str(e)}")
            return False

    def delete(self, key: str) -> bool:
        """Delete key from Redis"""
        try:
            return bool(self.client.delete(key))
        except Exception as e:
            st.error(f"Redis DELETE error: {str(e)}")
            return False

    def exists(self, key: str) -> bool:
        """Check if key exists"""
        try:
            return bool(self.client.exists(key))
        except Exception as e:
            st.error(f"Redis EXISTS error: {str(e)}")
            return False


# Global cache instance
@st.cache_resource
def get_redis_cache() -> RedisCache:
    """Get or create Redis cache instance"""
    return RedisCache()
