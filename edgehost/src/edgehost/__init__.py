"""Run and test Spin HTTP components from Python."""
