# Set price
redis_client.hset("price:AAPL", mapping={
    "close": "205.50",
    "timestamp": "1697658000"
})
redis_client.expire("price:AAPL", 300)  # 5 minutes

# Get price
price_data = redis_client.hgetall("price:AAPL")
