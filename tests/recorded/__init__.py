"""What a real mongod 5.0 answered, and what the tests' own server answers otherwise."""
