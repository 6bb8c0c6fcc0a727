"""What the tests start and speak through: servers, the proxy, a faulty network, raw RESP."""
