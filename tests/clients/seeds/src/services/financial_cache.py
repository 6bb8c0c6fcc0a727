from src.services.redis_cache import get_redis_cache
from datetime import datetime, timedelta
import streamlit as st


class FinancialDataCache:
    """Specialized cache for financial data with appropriate TTLs"""

    # Cache TTL settings (in seconds)
    TTL_SETTINGS = {
        'stock_symbols': 86400 * 7,  # 7 days - rarely changes
        'company_overview': 86400,   # 24 hours
        'financial_statements': 3600,  # 1 hour - quarterly data
        'price_data': 300,           # 5 minutes - intraday prices
        'technical_indicators': 300,  # 5 minutes
        'session_state': 3600,       # 1 hour
    }

    def cache_stock_symbols(self, symbols: list) -> bool:
        """Cache list of all stock symbols"""
        cache = get_redis_cache()
        return cache.set('stock:symbols', symbols, self.TTL_SETTINGS['stock_symbols'])

    def get_stock_symbols(self) -> list:
        """Get cached stock symbols"""
        cache = get_redis_cache()
        return cache.get('stock:symbols') or []

    def cache_financial_data(self, symbol: str, period: str, data: dict) -> bool:
        """Cache financial statements"""
        cache_key = f"financial:{symbol}:{period}"
        cache = get_redis_cache()
        return cache.set(cache_key, data, self.TTL_SETTINGS['financial_statements'])

    def get_financial_data(self, symbol: str, period: str) -> dict:
        """Get cached financial data"""
        cache_key = f"financial:{symbol}:{period}"
        cache = get_redis_cache()
        return cache.get(cache_key)

    def cache_price_data(self, symbol: str, interval: str, data: dict) -> bool:
        """Cache price data"""
        cache_key = f"price:{symbol}:{interval}"
        cache = get_redis_cache()
        return cache.set(cache_key, data, self.TTL_SETTINGS['price_data'])

    def get_price_data(self, symbol: str, interval: str) -> dict:
        """Get cached price data"""
        cache_key = f"price:{symbol}:{interval}"
        cache = get_redis_cache()
        return cache.get(cache_key)

    def invalidate_symbol_cache(self, symbol: str) -> None:
        """Invalidate all cache for a specific symbol"""
        cache = get_redis_cache()
        pattern = f"*{symbol}*"
        cache.clear_pattern(pattern)


# Global instance
@st.cache_resource
def get_financial_cache():
    """Get financial data cache instance"""
    return FinancialDataCache()
