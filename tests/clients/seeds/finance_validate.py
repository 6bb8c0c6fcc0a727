# In application, add validation
from src.services.redis_cache import get_redis_cache

def validate_redis_connection():
    cache = get_redis_cache()

    # Test basic operations
    test_key = "test:connection"
    test_value = {"timestamp": datetime.now().isoformat()}

    # Write
    success = cache.set(test_key, test_value, ttl=60)

    # Read
    retrieved = cache.get(test_key)

    # Verify
    if success and retrieved == test_value:
        st.success("‚úÖ Redis connection validated successfully")
        return True
    else:
        st.error("‚ùå Redis connection validation failed")
        return False
