import streamlit as st
import uuid
from typing import Any, Dict


def get_session_id() -> str:
    """Get or create session ID"""
    if 'session_id' not in st.session_state:
        st.session_state.session_id = str(uuid.uuid4())
    return st.session_state.session_id


def save_session_state(data: Dict[str, Any], ttl: int = 3600) -> bool:
    """Save session state to Redis"""
    from src.services.redis_cache import get_redis_cache

    session_id = get_session_id()
    session_key = f"session:{session_id}"
    cache = get_redis_cache()

    # Merge with existing data
    existing = cache.get(session_key) or {}
    existing.update(data)

    return cache.set(session_key, existing, ttl)


def load_session_state() -> Dict[str, Any]:
    """Load session state from Redis"""
    from src.services.redis_cache import get_redis_cache

    session_id = get_session_id()
    session_key = f"session:{session_id}"
    cache = get_redis_cache()

    return cache.get(session_key) or {}


def get_from_session(key: str, default: Any = None) -> Any:
    """Get value from session state with Redis fallback"""
    # Try session state first
    if key in st.session_state:
        return st.session_state[key]

    # Fall back to Redis
    data = load_session_state()
    if key in data:
        st.session_state[key] = data[key]
        return data[key]

    return default


def save_to_session(key: str, value: Any, ttl: int = 3600) -> None:
    """Save specific value to both Redis and session state"""
    from src.services.redis_cache import get_redis_cache

    # Save to Redis
    session_id = get_session_id()
    cache = get_redis_cache()
    data = cache.get(f"session:{session_id}") or {}
    data[key] = value
    cache.set(f"session:{session_id}", data, ttl)

    # Save to session state
    st.session_state[key] = value
