"""The parts of benches/compare (Python 3.9+, standard library, Linux)."""
