"""The only package that imports the Spin SDK: key-value, outbound HTTP, variables."""
