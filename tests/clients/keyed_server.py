"""A key of a service, and what its clients send."""

KEY = "key-of-a-test-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}
